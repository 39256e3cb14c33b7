"""Calls into vLLM that end when its process does: vLLM itself waits for an answer that nobody is left to give."""

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


class Watched:
    """Runs calls one after the other on a thread of its own, and watches the processes that must answer them."""

    def __init__(self, processes: Sequence[BaseProcess], died: RunError) -> None:
        """``died`` is what is raised once one of ``processes`` has ended."""
        self._processes, self._died = processes, died
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        # a daemon: a call that is never answered must not keep the program from ending
        threading.Thread(target=self._serve, daemon=True).start()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns or raises.

        Raises:
            RunError: a process has ended; nothing can be called from here on.
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
        """Call ``shut_down``, then wait for the processes and all that they started, and kill what is left of them.

        Nothing can be called from here on.
        """
        # the number of one that has ended may be another's by now
        family = [relative for process in self._processes if process.is_alive() for relative in _family(process)]
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
