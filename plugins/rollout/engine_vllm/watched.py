"""Calls into vLLM end when its process does; vLLM itself would wait for its answer for ever."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

import psutil

from ....core.errors import RunError

POLL_S = 0.5
"""Seconds between two looks at the processes."""


class Watched:
    """A thread that runs calls one after the other, while the processes that must answer them are watched."""

    def __init__(self, processes: Sequence[BaseProcess], died: RunError) -> None:
        """Watch ``processes``; ``died`` is the error to raise once one of them has ended."""
        self._processes = processes
        self._died = died
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        # a daemon: a call that is never answered must not keep the program from ending
        threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what ``function`` returns, or raise what it raises.

        Raises:
            RunError: a process has ended; nothing can be called any more.
        """
        self._calls.put(lambda: function(*arguments))
        while True:
            try:
                answer, error = self._answers.get(timeout=POLL_S)
            except queue.Empty:
                if all(process.is_alive() for process in self._processes):
                    continue
                raise self._died from None
            if error is not None:
                raise error
            return answer

    def end(self, shut_down: Callable[[], Any], patience_s: float) -> None:
        """Call ``shut_down``, wait for the processes and their descendants, and kill those that are left.

        Nothing can be called any more.
        """
        family: list[psutil.Process] = []
        for process in self._processes:
            if process.is_alive():  # the id of an ended process may be another's by now
                family += _family(process)
        try:
            shut_down()
        finally:
            self._calls.put(None)
            _, left = psutil.wait_procs(family, timeout=patience_s)
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._answers.put((call(), None))
            except BaseException as error:  # it is raised where the call was made
                self._answers.put((None, error))
            del call  # it holds the engine


def _family(process: BaseProcess) -> list[psutil.Process]:
    try:
        head = psutil.Process(process.pid)
        return [head, *head.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
