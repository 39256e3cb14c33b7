"""What the tests of sweeps share: a small experiment that is never trained, and a launcher without processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uncollapse.core import components
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.sweeps.sweep import Sweep

BASE = {"environment": "sokoban", "model": {"path": "some/model"}, "trainer": {"steps": 3}}
AXES = {"filter.select": ["nofilter", "top_p(0.9)"], "kl.coef": [0, 0.01]}
LABELS = ["nofilter__kl.coef_0", "nofilter__kl.coef_0.01", "top_p_0.9__kl.coef_0", "top_p_0.9__kl.coef_0.01"]


def sweep(**options) -> Sweep:
    return Sweep(BASE, AXES, name="test", **options)


class Launcher(components.Launcher):
    """Ends each job at once as ``outcomes`` says for it, as ``uncollapse train`` would; a list is one per attempt.

    ``died`` is a process that says nothing, ``refused`` one that refuses before it trains, ``ended`` one that finds its
    run ended.
    """

    CODES = {"success": 0, "failed": 1, "refused": 2, "ended": 0, "interrupted": 130, "died": 137}

    def __init__(self, during: Callable[[Job], None] = lambda job: None, **outcomes: str | list[str]) -> None:
        self.during, self.outcomes, self.jobs = during, outcomes, []

    def describe(self):
        return ["slot 0: nothing"]

    def run(self, jobs, on_start=None, on_finish=None):
        queue = list(jobs)
        while queue:
            job = queue.pop(0)
            self.jobs.append(job)
            on_start(job)
            code = self.end(job)
            self.during(job)
            if again := on_finish(job, code):
                queue.append(again)
        return [0 for _ in jobs]

    def end(self, job) -> int:
        outcome = self.outcomes.get(job.name, "success")
        if isinstance(outcome, list):
            outcome = outcome.pop(0)
        run = RunDirectory(job.log.parent)
        if outcome not in ("refused", "ended"):
            run.set_status("running", attempts=run.status().get("attempts", 0) + 1)
        if outcome not in ("refused", "ended", "died"):
            run.set_status(outcome, metrics={"validation/success": 0.5, "validation/success_se": 0.05})
        return self.CODES.get(outcome, 3)

    def ran(self) -> list[str]:
        """Name of each job that ran, in order."""
        return [job.name for job in self.jobs]


class Interrupted(Launcher):
    """Is interrupted before it starts anything."""

    def run(self, jobs, on_start=None, on_finish=None):
        raise KeyboardInterrupt


TITLES = [
    "filter.select nofilter, kl.coef 0", "filter.select nofilter, kl.coef 0.01",
    "filter.select top_p(0.9), kl.coef 0", "filter.select top_p(0.9), kl.coef 0.01",
]  # fmt: skip
"""What people read of :data:`LABELS`."""


def statuses(root: Path) -> dict[str, str]:
    return {label: RunDirectory(root / label).status().get("status") for label in LABELS}
