"""Which stage a run is in, and how long the stages of its last step took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """A clock that adds up the seconds of each stage of a step, on this rank."""

    def __init__(self) -> None:
        self.stage = "start"
        """The name of the stage that runs, or ran last."""
        self._seconds: dict[str, float] = {}

    def restart(self) -> None:
        """Forget the seconds of the last step."""
        self._seconds = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to those of ``stage``."""
        self.stage = stage
        started = time.perf_counter()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - started

    def metrics(self) -> dict[str, float]:
        """Return ``timing_s/STAGE`` of every stage since the last restart, in seconds."""
        return {f"timing_s/{stage}": seconds for stage, seconds in self._seconds.items()}
