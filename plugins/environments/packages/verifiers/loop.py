"""Episodes of the package verifiers have an event loop, and random numbers of their own."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from ...common import seeded

_GOODBYE_S = 2.0
"""Seconds that an episode which is given up may take to tidy up."""


class Chances:
    """The random numbers of one episode, in the place of those that all modules share."""

    def __init__(self, *parts: object) -> None:
        rng = seeded(*parts)
        self._python = rng.getstate()
        self._numpy = numpy.random.RandomState(rng.getrandbits(32)).get_state()

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Let everybody draw from these."""
        python, of_numpy = random.getstate(), numpy.random.get_state()
        random.setstate(self._python)
        numpy.random.set_state(self._numpy)
        try:
            yield
        finally:
            self._python, self._numpy = random.getstate(), numpy.random.get_state()
            random.setstate(python)
            numpy.random.set_state(of_numpy)


class Loop:
    """An event loop, which runs only while one of its episodes is asked something."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._held = threading.RLock()

    @classmethod
    def of_thread(cls) -> Loop:
        """Return the loop of this thread: one for all its episodes, since each loop holds open files."""
        if getattr(_OWN, "process", None) != os.getpid():
            _OWN.process, _OWN.loop = os.getpid(), cls()
        loop: Loop = _OWN.loop
        return loop

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, also where another loop runs, such as that of a notebook."""
        with self._held:
            outer = asyncio._get_running_loop()
            asyncio._set_running_loop(None)
            try:
                return self.loop.run_until_complete(coroutine)
            finally:
                asyncio._set_running_loop(outer)

    def end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task and let it tidy up; any thread may do so."""
        if task.done():
            return
        if self._held.acquire(blocking=False):
            try:
                if not self.loop.is_running():
                    self.run(_ended(task))
                    return
            finally:
                self._held.release()
        self.loop.call_soon_threadsafe(task.cancel)

    def __del__(self) -> None:
        if not self.loop.is_running():
            self.loop.close()


async def _ended(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=_GOODBYE_S)


_OWN = threading.local()
