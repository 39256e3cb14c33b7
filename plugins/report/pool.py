"""Runs of several directories, sweeps or single runs, are read as one pool."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from ...core.errors import RequestError
from ...core.runs.directory import RunDirectory
from .data import SweepData, read_run
from .following import Target
from .sweep_file import PointFile, SweepFile

NAMED = 3
"""Directories that the heading of a report names at most."""


def read_pool(paths: Sequence[Path], out: Path, target: Target | None = None) -> SweepData:
    """Read the runs of sweeps and run directories, whose report is to be written below ``out``.

    They have no axes in common: nothing but the course of each run, and what all of them show together, is compared.

    Raises:
        RequestError: a directory holds neither a sweep nor a run, or a run is there twice.
    """
    points = [point for path in paths for point in _points(path)]
    paths_of_runs = Counter(point.run.path.resolve() for point in points)
    for path, times in paths_of_runs.items():
        if times > 1:
            fix = "give each run once: alone, or with its sweep"
            raise RequestError("the run is given twice, and would count as two", str(path), fix)
    runs = [read_run(point, target) for point in _named(points)]
    names = [path.resolve().name for path in paths]
    shown = ", ".join(names) if len(names) <= NAMED else f"{len(names)} directories"
    return SweepData(f"Runs of {shown}", out, {}, runs, pooled=list(paths))


def _points(path: Path) -> Iterator[PointFile]:
    """Yield the runs of a directory, without their places on axes, which other directories do not have."""
    if (path / "sweep.yaml").is_file():
        sweep = SweepFile.read(path)
        for point in sweep.points:
            yield attrs.evolve(point, values={}, title=f"{path.resolve().name}: {point.title}")
    elif (path / "config.yaml").is_file():
        name = path.resolve().name
        yield PointFile(name, RunDirectory(path), {}, title=name)
    else:
        fix = "give directories of sweeps (sweep.yaml) or of runs (config.yaml)"
        raise RequestError("the directory holds neither a sweep nor a run", str(path), fix)


def _named(points: Sequence[PointFile]) -> list[PointFile]:
    """Return the runs under names that differ: with their directory where two have the same."""
    titles = Counter(point.title for point in points)
    return [
        attrs.evolve(
            point, label=str(point.run.path), title=str(point.run.path) if titles[point.title] > 1 else point.title
        )
        for point in points
    ]
