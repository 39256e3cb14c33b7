"""A dry run foresees what running a sweep will do about what is there already, and does none of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from ...core.compose.identity import config_hash
from ...core.errors import RequestError, UncollapseError
from ...core.runs.damage import what_is
from ...core.runs.records import outlook
from ...core.runs.repair import FILES
from ...core.runs.status import Status
from .aside import matches
from .skip_or_resume import Prepared, in_a_line, stale_sources


def foreseen(point: Prepared, skip: Collection[str], stale: str = "ask") -> list[str]:
    """Say what :func:`.prepare.prepare` will do about the run directory of a point; nothing of one that is not there.

    Args:
        skip: statuses of runs that are not run again.
        stale: what is to be done about runs with other sources, see :class:`.run.Options`.
    """
    path = point.run.path
    if not os.path.lexists(path):
        return []
    if not path.is_dir():
        return [f"fails: {what_is(path) or 'a file'} is in the place of its directory"]
    try:
        return list(_foreseen(point, skip, stale))
    except (UncollapseError, OSError) as error:
        return [f"fails: {in_a_line(error)}"]


def _foreseen(point: Prepared, skip: Collection[str], stale: str) -> Iterator[str]:
    run = point.run
    if run.locked():
        yield "left alone: another process trains it"
        return
    odd = {name: what for name in FILES if (what := what_is(run.path / name))}
    yield from (f"{what} is in the place of {name}: it will be moved aside" for name, what in odd.items())
    try:
        record = run.status()
    except RequestError as error:
        record = {"status": str(Status.INTERRUPTED)}
        if "status.json" not in odd:
            yield f"{in_a_line(error)}: it will be kept beside, and begun anew"
    try:
        stored_hash = config_hash(run.read_config())
    except (RequestError, FileNotFoundError):
        stored_hash = ""
    status = str(record.get("status", Status.INTERRUPTED))
    if not stored_hash and record.get("hash") == point.hash:
        yield "its config.yaml is damaged or lost: it will be written again"
    elif stored_hash != point.hash:
        what = "another configuration" if stored_hash else "what is no run, or not known any more,"
        if any(run.path.iterdir()):
            yield f"{what} is there: it will be moved aside"
        return
    yield from _ahead(point, status, skip, stale)


def _ahead(point: Prepared, status: str, skip: Collection[str], stale: str) -> Iterator[str]:
    """Say what will be done about a run of the wanted configuration."""
    run, skipped = point.run, matches(status, skip)
    if not skipped and matches(status, (Status.SUCCESS, Status.STOPPED)):
        yield f"runs again: the run that ended with {status} will be moved aside"
    elif stale == "rerun" and (names := stale_sources(point, run, skip)):
        yield f"runs again: the run with other sources ({', '.join(names)}) will be moved aside"
    elif damage := run.damaged_records():
        yield f"{damage.what} ({damage.where}): {outlook(run.latest(), point.record())}"
    elif skipped:
        yield f"skipped: already {status}"
    elif status != Status.QUEUED or run.checkpoints():
        latest = run.latest()
        yield f"{status}: resumed from {latest.name if latest else 'the start'}"
