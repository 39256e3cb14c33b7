"""A piece of the study: the slots of this machine for some minutes, in which only runs begin that should also end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local


@attrs.frozen
class Piece(Local):
    """The launcher ``local`` that begins no run which would not end in time, and says when each has ended.

    The first run of every slot begins whatever is expected: nothing else could use the time.
    """

    deadline: float = 0.0
    """Time by the monotonic clock, in seconds."""
    expected: Callable[[str], float] = attrs.field(default=lambda label: 0.0, eq=False)
    """Seconds that the run of a label is expected to take."""
    ended: Callable[[str, int, float], None] = attrs.field(default=lambda label, code, seconds: None, eq=False)
    """Called with label, exit code and seconds of each run."""
    refused: list[str] = attrs.field(factory=list, eq=False)
    """Labels of the runs for which there was no time."""

    admitted: list[str] = attrs.field(factory=list, eq=False)
    """Labels of the others, each as often as it began."""

    def admits(self, job: Job) -> bool:
        """Say whether the run may begin."""
        in_time = time.monotonic() + self.expected(job.name) <= self.deadline
        may_begin = in_time or (self.slots != "auto" and len(self.admitted) < self.slots)
        (self.admitted if may_begin else self.refused).append(job.name)
        return may_begin

    def run(
        self,
        jobs: Sequence[Job],
        on_start: Callable[[Job], None] | None = None,
        on_finish: Callable[[Job, int], Job | None] | None = None,
    ) -> list[int]:
        """Run the jobs; see :meth:`.Local.run`."""
        started: dict[str, float] = {}

        def start(job: Job) -> None:
            started[job.name] = time.monotonic()
            if on_start:
                on_start(job)

        def finish(job: Job, code: int) -> Job | None:
            again: Any = on_finish(job, code) if on_finish else None
            self.ended(job.name, code, time.monotonic() - started[job.name])
            return again

        return super().run(jobs, start, finish)
