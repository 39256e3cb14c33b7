"""An episode of the package verifiers has an event loop and random numbers of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy

from ..common import seeded

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
    """The event loop of one episode, which runs only while the episode is asked something."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end, also where another loop runs, such as that of a notebook."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return self.loop.run_until_complete(coroutine)
        finally:
            asyncio._set_running_loop(outer)

    def close(self, task: asyncio.Task[Any] | None) -> None:
        """End what still runs, and the loop."""
        if self.loop.is_closed():
            return
        with suppress(Exception):
            self.run(_ended(task))
        self.loop.close()


async def _ended(task: asyncio.Task[Any] | None) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if task is not None:
        # the package tidies up after a run that is cancelled
        task.cancel()
    for other in others:
        other.cancel()
    if others:
        await asyncio.wait(others, timeout=_GOODBYE_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
