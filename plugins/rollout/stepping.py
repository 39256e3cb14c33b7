"""A pool runs the parts of conversations that wait for environments, and hands back each as it is done."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from ...core.errors import EpisodeLostError
from .time_limit import release_helper


@attrs.frozen
class Outcome:
    """What became of one conversation's work."""

    key: int
    """The number of the conversation."""
    result: Any = None
    error: BaseException | None = None
    """What the work raised, if it did."""

    @property
    def lost(self) -> EpisodeLostError | None:
        """The reason why the episode is lost. Any other error ends the run."""
        return self.error if isinstance(self.error, EpisodeLostError) else None


class Pool(ABC):
    """A pool of work that waits for environments. All of it is given and taken by one thread."""

    running: int = 0
    """The number of works that were started and not yet handed back."""

    @abstractmethod
    def start(self, key: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Start the next work of conversation ``key``, which has none that runs."""

    @abstractmethod
    def done(self, wait: bool = True) -> list[Outcome]:
        """Return the works that are done since the last call; with ``wait``, at least one if any runs.

        Raises:
            Exception: what a work raised, unless it is an :class:`.EpisodeLostError`.
        """

    def all_done(self) -> list[Outcome]:
        """Wait for all works, and return them in the order of their conversations; raises as :meth:`done`."""
        outcomes: list[Outcome] = []
        while self.running:
            outcomes += self._taken(wait=True)
        return _sound(sorted(outcomes, key=lambda outcome: outcome.key))

    @abstractmethod
    def _taken(self, wait: bool) -> list[Outcome]:
        """Return what is done, errors included."""


class InTurn(Pool):
    """A pool that does each work at once, in the thread that starts it."""

    def __init__(self) -> None:
        self._outcomes: list[Outcome] = []

    def start(self, key: int, work: Callable[..., Any], *arguments: Any) -> None:
        try:
            self._outcomes.append(Outcome(key, work(*arguments)))
        except EpisodeLostError as error:
            self._outcomes.append(Outcome(key, error=error))
        self.running += 1

    def done(self, wait: bool = True) -> list[Outcome]:
        return self._taken(wait)

    def _taken(self, wait: bool) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        self.running = 0
        return outcomes


class SideBySide(Pool):
    """A pool with threads. A conversation always has the same one, since episodes may hold what belongs to a thread.

    With fewer threads than conversations, some share one. The threads do not keep the process from ending.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._works: dict[int, queue.SimpleQueue[Any]] = {}
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def start(self, key: int, work: Callable[..., Any], *arguments: Any) -> None:
        number = key % self.threads
        if number not in self._works:
            self._works[number] = queue.SimpleQueue()
            name = f"environments {number}"
            threading.Thread(target=self._serve, args=(self._works[number],), name=name, daemon=True).start()
        self._works[number].put((key, work, arguments))
        self.running += 1

    def done(self, wait: bool = True) -> list[Outcome]:
        return _sound(self._taken(wait))

    def end(self) -> None:
        """Let every thread end after the work that it has."""
        for works in self._works.values():
            works.put(None)

    def _taken(self, wait: bool) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while self.running:
            try:
                outcomes.append(self._outcomes.get(block=wait and not outcomes))
            except queue.Empty:
                break
            self.running -= 1
        return outcomes

    def _serve(self, works: queue.SimpleQueue[Any]) -> None:
        while (given := works.get()) is not None:
            key, work, arguments = given
            try:
                outcome = Outcome(key, work(*arguments))
            except BaseException as error:  # it is raised where the outcome is taken
                outcome = Outcome(key, error=error)
            self._outcomes.put(outcome)
        release_helper()


@contextmanager
def pool(concurrency: int, conversations: int) -> Iterator[Pool]:
    """Make the pool of an environment of this ``concurrency``, for a number of conversations."""
    threads = min(concurrency, conversations)
    if threads <= 1:
        yield InTurn()
        return
    side_by_side = SideBySide(threads)
    try:
        yield side_by_side
    finally:
        side_by_side.end()


def _sound(outcomes: list[Outcome]) -> list[Outcome]:
    for outcome in outcomes:
        if outcome.error is not None and outcome.lost is None:
            raise outcome.error
    return outcomes
