"""A point is prepared before it runs: what is there already is looked at, made whole, or moved aside."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.config import to_dict
from ...core.compose.experiment import Experiment
from ...core.compose.identity import config_hash
from ...core.errors import RequestError, UncollapseError, in_python
from ...core.files import make_directory, replace_text, to_json
from ...core.registry import registry
from ...core.runs.directory import RunDirectory, build_manifest
from ...core.runs.repair import clear
from ...core.runs.repair import repair as restore_records
from ...core.runs.sources import changed
from ...core.runs.status import Status
from .aside import free_name, matches, move_aside, take_back
from .layout import Place

Say = Callable[[str], None]

WAIT_S = 10.0
"""Seconds to wait for a process that is dying, of a sweep that was killed just now."""
STALE = in_python("--stale keep takes them as they are", "SweepOptions(stale=...)")
SHOWN = 10
"""Runs that a message names at most; of more it says how many."""


@attrs.frozen
class Prepared:
    """A point of a sweep with its run directory."""

    label: str
    hash: str
    experiment: Experiment
    place: Place
    values: Mapping[str, str]
    """Value of each axis, as text."""
    title: str = attrs.field(default=attrs.Factory(lambda self: self.label, takes_self=True))
    """Name that people read: ``kl 0.01, seed 0``."""
    todo: bool = True
    """Whether it is to be run."""
    why: str = ""
    """Reason why it is not to be run."""
    broken: str = ""
    """Error of this point outside of its own process, which leaves the other points alone; it has failed."""

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.place.run)

    def record(self) -> dict[str, Any]:
        """Return the status of the run; {} if there is none, or if a run of another configuration is in its place."""
        if self.broken:
            return {"status": str(Status.FAILED), "error": self.broken}
        try:
            record = self.run.status()
        except RequestError:
            return {"status": "damaged"}
        return record if record.get("hash", self.hash) == self.hash else {}


def stale_sources(point: Prepared, run: RunDirectory, skip: Collection[str]) -> list[str]:
    """List what a run that has begun was made with that has another source now; nothing if it starts anew."""
    try:
        record = run.status()
    except RequestError:
        record = {}  # it is begun anew, and the run goes on from its checkpoint
    status = record.get("status", Status.INTERRUPTED)
    if status == Status.QUEUED and not record.get("attempts"):
        return []
    if not matches(status, skip) and matches(status, (Status.SUCCESS, Status.STOPPED)):
        return []
    if not run.config_file.exists():
        return []
    try:
        if (record.get("hash") or config_hash(run.read_config())) != point.hash:
            return []
        manifest = run.manifest()
    except (UncollapseError, FileNotFoundError):
        return []
    return changed(manifest, build_manifest(point.experiment, registry()))


def refuse_stale(points: Iterable[Prepared], skip: Collection[str]) -> None:
    """Raise RequestError if runs were made with sources that are others now: a person has to say what then."""
    stale = {point.title: names for point in points if (names := stale_sources(point, point.run, skip))}
    if not stale:
        return
    shown = [f"{title}: {', '.join(names)}" for title, names in list(stale.items())[:SHOWN]]
    shown += [f"and {len(stale) - SHOWN} more"] if len(stale) > SHOWN else []
    raise RequestError(
        f"{len(stale)} of the runs that are there were made with other sources than those of now",
        "\n         ".join(shown),
        f"--stale rerun moves them aside and trains them anew, {STALE}",
    )


def prepare_alone(point: Prepared, *how: Any) -> Prepared:
    """Prepare a point so that it fails alone: the others run, whatever is in its place. See :func:`prepare`."""
    try:
        return prepare(point, *how)
    except (UncollapseError, OSError) as error:
        return attrs.evolve(point, todo=False, broken=in_a_line(error))


def in_a_line(error: Exception) -> str:
    """Return an error as a reason in one line, with its place."""
    if isinstance(error, UncollapseError):
        return f"{error.what} ({error.where})" if error.where else error.what
    return f"{error.strerror} ({error.filename})" if isinstance(error, OSError) and error.filename else str(error)


def prepare(point: Prepared, skip: Collection[str], say: Say, wait_s: float = WAIT_S, stale: str = "ask") -> Prepared:
    """Lay out the run directory of a point, or find out that there is nothing to do; waits for a process that has it.

    What has the wanted hash and a status in ``skip`` is left as it is; what began and has not ended will be resumed.
    Anything else in its place is moved aside: another configuration, a run that has ended but is not skipped, and with
    ``stale="rerun"`` one of other sources. A run with the wanted hash that was moved aside earlier is taken back.
    """
    run = point.run
    if held(run, wait_s):
        return attrs.evolve(point, todo=False, why="another process trains it")
    if run.path.exists():
        repair(point, say)
    _make_way(point, skip, say, stale)
    if not run.config_file.exists():
        _take_back(point, skip, say, stale)
    if not run.config_file.exists():
        RunDirectory.create(run.path, to_dict(point.experiment), build_manifest(point.experiment, registry()))
    _link(point.place.log, run.path / "log.txt", say)
    if point.place.checkpoints:
        make_directory(run.checkpoint_directory)
        _link(point.place.checkpoints, run.checkpoint_directory, say)
    if matches(_status(run), skip) and (done := restore_records(run)):
        say(f"{point.title}: {done}")
    status = _status(run)
    return attrs.evolve(point, todo=False, why=f"already {status}") if matches(status, skip) else point


def _status(run: RunDirectory) -> str:
    return str(run.status().get("status", Status.INTERRUPTED))


def _make_way(point: Prepared, skip: Collection[str], say: Say, stale: str) -> None:
    """Move aside what is in the place of a point, unless the point continues it or skips it."""
    run = point.run
    if not run.config_file.exists():
        return
    status, stored_hash = _status(run), config_hash(run.read_config())
    names = stale_sources(point, run, skip)
    if stored_hash != point.hash:
        say(f"{point.title}: another configuration was there, now at {move_aside(run.path, stored_hash)}")
    elif matches(status, (Status.SUCCESS, Status.STOPPED)) and not matches(status, skip):
        aside = move_aside(run.path, stored_hash)
        say(f"{point.title}: runs again, the run that ended with {status} is now at {aside}")
    elif names and stale == "rerun":
        aside = move_aside(run.path, stored_hash)
        say(f"{point.title}: runs again, the run with other sources ({', '.join(names)}) is now at {aside}")
    elif names:
        goes_on = "kept" if matches(status, skip) else "resumed"
        say(f"{point.title}: {goes_on}, with other sources than those of now ({', '.join(names)})")


def _take_back(point: Prepared, skip: Collection[str], say: Say, stale: str) -> None:
    """Take back a run that lies aside with the wanted configuration."""
    path = point.run.path

    def usable(run: RunDirectory) -> bool:
        names = stale_sources(point, run, skip)
        if names and stale != "keep":
            say(f"{run.path} has this configuration, and other sources ({', '.join(names)}): it stays aside")
        return stale == "keep" or not names

    if path.exists() and any(path.iterdir()):
        say(f"{point.title}: what was there is no run, now at {move_aside(path, 'unknown')}")
    if taken := take_back(path, point.hash, skip, usable):
        say(f"{point.title}: taken back from {taken.path}")


def held(run: RunDirectory, wait_s: float) -> bool:
    """Say whether another process still holds the run after ``wait_s`` seconds."""
    if not run.locked():
        return False
    try:
        with run.hold(wait_s):
            return False
    except RequestError:
        return True


def repair(point: Prepared, say: Say) -> None:
    """Make the records of a run whole again: what cannot be read is kept beside, never deleted."""
    run = point.run
    for done in clear(run.path):
        say(f"{point.title}: {done}")
    hash_of_config = _stored_hash(run)
    try:
        recorded_hash = run.status().get("hash", hash_of_config)
    except RequestError:
        recorded_hash = hash_of_config
        say(f"{point.title}: status.json is damaged, now at {_keep(run.path / 'status.json')}")
        why = "the record of the run was damaged"
        record = {"status": str(Status.INTERRUPTED), "hash": hash_of_config, "error": why}
        replace_text(run.path / "status.json", to_json(record, indent=1))
    if hash_of_config and hash_of_config == recorded_hash:
        return
    if recorded_hash == point.hash:
        if run.config_file.exists():
            say(f"{point.title}: config.yaml is damaged, now at {_keep(run.config_file)}")
        run.restore_config(to_dict(point.experiment))
    elif run.config_file.exists() or run.metrics_file.exists() or run.checkpoint_directory.exists():
        say(f"{point.title}: it is not known what ran there, now at {move_aside(run.path, 'unknown')}")


def _stored_hash(run: RunDirectory) -> str:
    """Return the hash of what stands in config.yaml, which may be less than was written; empty if it cannot be read."""
    try:
        return config_hash(run.read_config())
    except (RequestError, FileNotFoundError, UnicodeDecodeError, AttributeError):  # half a file may be YAML of a word
        return ""


def _keep(file: Path) -> Path:
    """Keep a copy of a damaged file, and return its path; the file itself is only ever replaced by a whole one."""
    free = free_name(file, "damaged")
    shutil.copyfile(file, free)
    return free


def _link(link: Path | None, target: Path, say: Say) -> None:
    """Make a second name, as a relative symbolic link; what is there and is no link stays."""
    if link is None or link == target:
        return
    make_directory(link.parent)
    if link.is_symlink():
        link.unlink()
    if link.exists():
        say(f"{link} is there already and stays; see {target}")
    else:
        link.symlink_to(os.path.relpath(target, link.parent))
