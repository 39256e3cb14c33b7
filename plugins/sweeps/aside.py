"""Runs are moved aside under a name of their own, and taken back when they are wanted again."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Callable, Collection
from pathlib import Path

from ...core.compose.identity import config_hash
from ...core.errors import UncollapseError
from ...core.runs.directory import RunDirectory
from ...core.runs.status import Status


def move_aside(path: Path, digest: str) -> Path:
    """Rename to ``<name>.<hash8>``, with a number behind it where that is taken, and return the new path."""
    return path.rename(free_name(path, digest))


def free_name(path: Path, digest: str) -> Path:
    """Return the free name ``<name>.<hash8>`` beside ``path``, with a number behind it where that is taken."""
    names = (f"{path.name}.{digest[:8]}{f'.{number}' if number else ''}" for number in itertools.count())
    return next(free for name in names if not (free := path.with_name(name)).exists())


def take_back(
    path: Path, digest: str, skip: Collection[str], usable: Callable[[RunDirectory], bool]
) -> RunDirectory | None:
    """Give the run of this configuration that was moved aside from ``path`` its name again, where ``path`` is free.

    One that has ended so that it is skipped goes before one that can be resumed, and of these the furthest. A kill at
    any moment leaves every run whole, under one name or the other, and the next call goes on from there.

    Args:
        digest: :func:`config_hash` that is wanted.
        skip: statuses of runs that are not run again.
        usable: whether a run found may be taken.
    """
    candidates = []
    for beside in path.parent.glob(f"{glob.escape(path.name)}.{digest[:8]}*"):
        run = RunDirectory(beside)
        worth = _worth(run, digest, skip)
        if worth is not None and usable(run):
            candidates.append((worth, str(beside), run))
    if not candidates:
        return None
    run = max(candidates, key=lambda item: item[:2])[2]
    run.path.rename(path)
    return run


def _worth(run: RunDirectory, digest: str, skip: Collection[str]) -> tuple[bool, int] | None:
    """Rank a run that lies aside: whether it has ended for good, then its step; ``None`` if it is of no use."""
    try:
        if run.locked() or config_hash(run.read_config()) != digest:
            return None
        record = run.status()
    except (UncollapseError, OSError, AttributeError):
        return None
    status = str(record.get("status", Status.INTERRUPTED))
    skipped = matches(status, skip)
    if not skipped and (matches(status, (Status.SUCCESS, Status.STOPPED)) or "step" not in record):
        return None  # it would be moved aside again, or has done nothing
    return skipped, int(record.get("step", 0))


def matches(status: str, wanted: Collection[str]) -> bool:
    """Say whether a status is among those wanted; ``stopped`` stands for any detector."""
    return status in wanted or status.partition(":")[0] in wanted
