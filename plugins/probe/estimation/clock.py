"""A clock measures the seconds of the phases of a probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs


def _silent(name: str) -> None:
    pass


@attrs.define
class Clock:
    """A clock adds up the seconds of each phase by name; a phase inside another counts in both."""

    seconds: dict[str, float] = attrs.field(factory=dict)
    on_start: Callable[[str], None] = _silent
    on_end: Callable[[str], None] = _silent

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.on_start(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started
        self.on_end(phase)
