"""``sweep.yaml`` says of a sweep which points it has, where their runs are, and their place on the axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.converter import make_converter
from ...core.compose.problems import Invalid
from ...core.errors import RequestError
from ...core.files import read_bytes
from ...core.registry import registry
from ...core.runs.directory import RunDirectory
from ...core.runs.labels import titles
from ...core.runs.sweep_record import loads
from .claim import Claim


@attrs.frozen
class PointFile:
    """A point as the file describes it."""

    label: str
    run: RunDirectory
    values: Mapping[str, str]
    """Value of each axis, both as text."""
    hash: str = ""
    """Hash of its configuration; empty if the file does not say."""
    steps: int | None = None
    """Training steps of the point, if the file says so."""
    seed: int | None = None
    """Seed of the point, if the file says so."""
    settings: Mapping[str, str] = attrs.field(factory=dict)
    """Settings in which it differs from other points, by dotted key as text, if the file says so."""
    title: str = ""
    """Name that people read: ``kl 0.01, seed 0``."""


@attrs.frozen
class SweepFile:
    """A sweep file lists the points of a sweep; no run has been looked at yet."""

    name: str
    root: Path
    points: Sequence[PointFile]
    ranked: bool = False
    """Whether reports rank the points against the first one."""
    claims: Sequence[Claim] = ()
    """Claims that reports check."""

    @property
    def scheduled(self) -> bool:
        """Whether a process runs the sweep: it holds the lock of its directory."""
        try:
            return RunDirectory(self.root).locked()
        except OSError:
            return False

    @property
    def axes(self) -> dict[str, list[str]]:
        """The values that occur on each axis, in the order of the points."""
        axes: dict[str, dict[str, None]] = {}
        for point in self.points:
            for axis, value in point.values.items():
                axes.setdefault(axis, {})[value] = None
        return {axis: list(values) for axis, values in axes.items()}

    @classmethod
    def read(cls, root: Path) -> SweepFile:
        """Read the file of the sweep in ``root``. Raises RequestError if there is none, or if it is damaged."""
        file = root / "sweep.yaml"
        try:
            record = loads(read_bytes(file).decode())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RequestError("this is no sweep directory: it has no sweep.yaml", str(root)) from error
        except (OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        try:
            points = [_point(root, point) for point in record["points"]]
            name, ranked = str(record["name"]), record.get("ranked") is True
            claims = make_converter(registry()).structure(record.get("claims", []), tuple[Claim, ...])
        except (KeyError, TypeError, AttributeError, Invalid) as error:
            raise _damaged(file, "name, points or claims are not there, or not as a sweep writes them") from error
        if not points:
            raise _damaged(file, "it has no points")
        names = titles([point.label for point in points], [point.values for point in points])
        titled = [attrs.evolve(each, title=title) for each, title in zip(points, names, strict=True)]
        return cls(name, root, titled, ranked, claims)


def _point(root: Path, point: Mapping[str, Any]) -> PointFile:
    values = {str(axis): str(value) for axis, value in point["values"].items()}
    run = RunDirectory(root / point.get("path", point["label"]))
    steps, seed = (_number(point, key) for key in ("steps", "seed"))
    settings = {str(key): str(value) for key, value in point.get("settings", {}).items()}
    return PointFile(point["label"], run, values, point.get("hash", ""), steps, seed, settings)


def _number(point: Mapping[str, Any], key: str) -> int | None:
    """Return a whole number of a point, if it is there. Raises TypeError for anything else."""
    number = point.get(key)
    if number is not None and (not isinstance(number, int) or isinstance(number, bool)):
        raise TypeError(f"{key} is {number!r}")
    return number


def _damaged(file: Path, reason: str) -> RequestError:
    fix = "run the sweep again with the same options: it writes the file anew and keeps the runs"
    return RequestError(f"the sweep's record is damaged: {reason}", str(file), fix)
