"""A report reads the runs of a sweep from disk."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.errors import UncollapseError
from ...core.files import read_bytes
from ...core.runs.directory import RunDirectory
from ...core.runs.sources import differing
from ...core.runs.timings import timings
from .claim import Claim
from .following import Course, Target, follow
from .metrics import SHOWN, STAGES, TAIL
from .run_status import RunStatus, damaged, read_run_status
from .sweep_file import PointFile, SweepFile

SEED_AXIS = "seed"
"""Axis in which alone repetitions differ, which are no settings to compare."""

ENVIRONMENT = re.compile(r"^environment:.*(?:\n[ \t].*)*", re.MULTILINE)

Series = list[tuple[int, float]]
"""Pairs of step and value, wherever a metric was logged and is finite."""


@attrs.frozen(eq=False)
class RunData:
    """The data of one run are its place on the axes, how it ended, and its metrics."""

    label: str
    """The name of its directory."""
    path: Path
    point: Mapping[str, str]
    """Value of each axis, both as text."""
    run_status: RunStatus
    logged: Mapping[str, Series] = attrs.field(factory=dict)
    """Series of each metric that reports show."""
    steps: int = 0
    """Training steps that are logged."""
    timings: Mapping[str, float] = attrs.field(factory=dict)
    """Seconds of the whole run by ``train``, ``eval``, ``collapse``, ``first_turn``, ``multi_turn``, ``total`` and
    ``wall``, as status.json has them, else from the metrics; what was never timed is absent."""
    config: str = ""
    """Text of ``config.yaml``, the resolved experiment."""
    settings: Mapping[str, str] = attrs.field(factory=dict)
    """Settings in which it differs from other runs of its sweep, by dotted key as text."""
    title: str = attrs.field(default=attrs.Factory(lambda self: self.label, takes_self=True))
    """Name that people read: ``kl 0.01, seed 0``."""
    manifest: Mapping[str, Any] = attrs.field(factory=dict)
    """Manifest of the run: what it was made with."""
    course: Course | None = None
    """Every metric against what follows on it, where that was asked for."""
    environment: str = ""
    """Settings of the environment as text, where a course was asked for."""

    @property
    def status(self) -> str:
        return self.run_status.status

    @property
    def failed_regime(self) -> bool:
        return self.run_status.failed_regime

    @property
    def status_text(self) -> str:
        return self.run_status.status_text

    @property
    def seed(self) -> str:
        """The value on the axis of seeds; empty without one."""
        return self.point.get(SEED_AXIS, "")

    @property
    def setting(self) -> str:
        """The place on the axes without the seed: ``filter.select=top_p(0.9), kl.coef=0.01``."""
        return ", ".join(f"{axis}={value}" for axis, value in self.point.items() if axis != SEED_AXIS)

    def series(self, metric: str) -> Series:
        return self.logged.get(metric, [])

    def measured(self, metric: str) -> list[tuple[int, float, float | None]]:
        """Return step, value and standard error of each measurement; the error is ``<metric>_se`` of the same step."""
        errors = dict(self.series(f"{metric}_se"))
        return [(step, value, errors.get(step)) for step, value in self.series(metric)]

    def tail(self, metric: str) -> float | None:
        """Return the mean over the last :data:`TAIL` logged steps."""
        values = [value for _, value in self.series(metric)[-TAIL:]]
        return sum(values) / len(values) if values else None

    def seconds(self) -> dict[str, float]:
        """Return the mean seconds of a training step by stage, and ``other``: the rest of the step."""
        timed = [step for step, _ in self.series("timing_s/step") if step > 0]
        if not timed:
            return {}
        stages = {stage: self._spent(names) / len(timed) for stage, names in STAGES.items()}
        return {**stages, "other": max(0.0, self._spent(["step"]) / len(timed) - sum(stages.values()))}

    def seconds_of(self, timing: str) -> float | None:
        """Return the mean seconds that a training step spends on a timing; ``None`` without timed steps."""
        timed = [step for step, _ in self.series("timing_s/step") if step > 0]
        return self._spent([timing]) / len(timed) if timed else None

    def _spent(self, stages: Iterable[str]) -> float:
        return sum(seconds for stage in stages for step, seconds in self.series(f"timing_s/{stage}") if step > 0)


@attrs.frozen(eq=False)
class SweepData:
    """The data of a sweep are what its ``sweep.yaml`` says, and all of its runs."""

    name: str
    root: Path
    axes: Mapping[str, Sequence[str]]
    """Values of each axis in order, as text."""
    runs: Sequence[RunData]
    ranked: bool = False
    """Whether its points are ranked against the first one."""
    claims: Sequence[Claim] = ()
    """Claims to check against its runs."""
    pooled: Sequence[Path] = ()
    """Directories of sweeps and runs whose runs these are, where it is no sweep of its own."""

    @property
    def heading(self) -> str:
        """What a report of it is called."""
        return self.name if self.pooled else f"Sweep {self.name}"

    @classmethod
    def read(cls, root: Path, target: Target | None = None) -> SweepData:
        """Read everything under ``root``, also of runs that are under way; a run that cannot be read is ``damaged``.

        With a ``target`` every metric is held against it; without one, only the metrics that reports show are read.

        Raises:
            RequestError: no sweep is there, or its ``sweep.yaml`` is damaged.
        """
        file = SweepFile.read(root)
        points = [read_run(point, target) for point in file.points]
        return cls(file.name, root, file.axes, points, file.ranked, file.claims)

    def commands(self) -> list[str]:
        """Return the commands that do all of it again."""
        sweeps = [path for path in self.pooled or (self.root,) if (path / "sweep.yaml").exists() or not self.pooled]
        return [f"uncollapse sweep run {path / 'sweep.yaml'} --root NEW_DIRECTORY" for path in sweeps]

    def differing(self) -> list[dict[str, str]]:
        """Return for each run the resolved settings in which the runs differ."""
        flat = {run.title: run.settings for run in self.runs if run.settings}
        keys = dict.fromkeys(key for settings in flat.values() for key in settings)
        differing = [key for key in keys if len({settings.get(key) for settings in flat.values()}) > 1]
        return [{"run": title} | {key: settings.get(key, "–") for key in differing} for title, settings in flat.items()]

    def differing_sources(self) -> list[dict[str, str]]:
        """List components and plugins whose sources differ among the runs: which runs were made with which source."""
        manifests = {run.title: run.manifest for run in self.runs if run.manifest}
        return [
            {"source": what, "sha256": digest[:8], "runs": "; ".join(titles)}
            for what, by_digest in differing(manifests)
            for digest, titles in by_digest.items()
        ]

    def left_out(self) -> list[str]:
        """Return the damaged runs, which are in no comparison."""
        return [run.title for run in self.runs if run.status == "damaged"]


def collect(records: Iterable[Mapping[str, Any]]) -> dict[str, Series]:
    """Return the series of each metric that reports show."""
    logged: dict[str, Series] = {metric: [] for metric in SHOWN}
    for record in records:
        step = int(record["step"])
        for metric, series in logged.items():
            if (value := record.get(metric)) is not None and math.isfinite(value):
                series.append((step, value))
    return {metric: series for metric, series in logged.items() if series}


def read_run(point: PointFile, target: Target | None) -> RunData:
    """Read a run, also one that is under way; one that cannot be read is ``damaged``."""
    run, run_status = point.run, read_run_status(point.run, point.hash, records=False)
    if run_status.status in ("not started", "damaged"):
        return RunData(point.label, run.path, point.values, run_status, title=point.title)
    try:
        records, config = run.metrics(), read_bytes(run.config_file).decode()
        return RunData(
            label=point.label,
            path=run.path,
            point=point.values,
            run_status=run_status,
            logged=collect(records),
            steps=max((int(record["step"]) for record in records), default=0),
            timings=_timings(run_status, records),
            config=config,
            settings=point.settings,
            title=point.title,
            manifest=_manifest(run),
            course=follow(records, target) if target else None,
            environment=_environment(config) if target else "",
        )
    except (UncollapseError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return RunData(point.label, run.path, point.values, damaged(error), title=point.title)


def _environment(config: str) -> str:
    """Return the settings of the environment as they stand in ``config.yaml``."""
    found = ENVIRONMENT.search(config)
    return found[0] if found else ""


def _manifest(run: RunDirectory) -> Mapping[str, Any]:
    """Return the manifest; one that cannot be read says nothing about sources, and takes no number from the run."""
    try:
        return run.manifest()
    except UncollapseError:
        return {}


def _timings(run_status: RunStatus, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    wall = run_status.lasted() if "ended" in run_status.record else None
    measured = {} if wall is None else {"wall": wall}
    return {**measured, **(run_status.timings or timings(records))}
