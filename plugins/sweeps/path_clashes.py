"""Nothing of a sweep may lie where something else of it does, also on file systems that take ``A`` for ``a``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...core.errors import RequestError
from ...core.runs.repair import FILES
from .skip_or_resume import Prepared

OWN = ("sweep.yaml", "report", ".lock")
"""Names in its home that belong to the sweep itself."""
OF_A_RUN = (*FILES, "checkpoints", "rollouts", "wandb")


def refuse_shared(points: Sequence[Prepared]) -> None:
    """Raise RequestError if two of the paths of a sweep are one, or a run lies in another."""
    home = points[0].place.home
    taken = {_key(home): "the sweep"} | {_key(home / name): "the sweep" for name in OWN}
    runs: dict[Path, str] = {}
    for point in points:
        _take(taken, point.place.run, point.label, "run")
        runs[_key(point.place.run)] = point.label
    for path, who in {**runs, _key(home): "the sweep"}.items():
        if outer := next((runs[above] for above in path.parents if above in runs), ""):
            raise _shared(f"{who} lies in the directory of {outer}", path, "run")
    for point, what, path, owner in _others(points):
        of_the_run = {"log": point.place.run / "log.txt", "checkpoints": point.place.run / "checkpoints"}.get(what)
        if path == of_the_run:
            continue
        _take(taken, path, owner, what)
        if _key(path.parent) in runs and path.name.lower() in OF_A_RUN:
            raise _shared(f"{owner} and a record of {runs[_key(path.parent)]} have one path", path, what)


def _others(points: Sequence[Prepared]) -> Iterator[tuple[Prepared, str, Path, str]]:
    """List everything beside the runs themselves: point, template, path and whose it is."""
    for point in points:
        for what, path in (("log", point.place.log), ("checkpoints", point.place.checkpoints)):
            if path:
                yield point, what, path, f"the {what} of {point.label}"
        if point.place.summary:
            yield point, "summary", point.place.summary, "the summary"


def _take(taken: dict[Path, str], path: Path, owner: str, what: str) -> None:
    if (other := taken.setdefault(_key(path), owner)) != owner:
        kind = "directory" if what == "run" else "path"
        raise _shared(f"{other} and {owner} have one {kind}", path, what)


def _key(path: Path) -> Path:
    return Path(str(path).casefold())


def _shared(reason: str, path: Path, what: str) -> RequestError:
    fix = "give it a path of its own" if what == "summary" else f"use $label in layout.{what}"
    return RequestError(reason, str(path), fix)
