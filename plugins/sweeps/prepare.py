"""Before a point runs: what is there already, whether it is whole, and whose it is."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs

from ...core.config import to_dict
from ...core.errors import RequestError
from ...core.experiment import Experiment
from ...core.files import make_directory, replace_text, to_json
from ...core.identity import config_hash
from ...core.registry import registry
from ...core.runs import RunDirectory, build_manifest
from .layout import Place

Say = Callable[[str], None]

WAIT_S = 10.0
"""For a process that is dying, of a sweep that was killed just now."""


@attrs.frozen
class Prepared:
    """A point with its directory."""

    label: str
    hash: str
    experiment: Experiment
    place: Place
    values: Mapping[str, str]
    """Axis -> value as text."""
    todo: bool = True
    """Whether it is to be run."""
    why: str = ""
    """Why not."""

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.place.run)

    def record(self) -> dict[str, Any]:
        """The status of the run; {} if there is none, or if a run of another configuration is in its place."""
        try:
            record = self.run.status()
        except RequestError:
            return {"status": "damaged"}
        return record if record.get("hash", self.hash) == self.hash else {}


def matches(status: str, wanted: Collection[str]) -> bool:
    """Whether a status is among those wanted; ``stopped`` stands for any detector."""
    return status in wanted or status.partition(":")[0] in wanted


def prepare(point: Prepared, skip: Collection[str], say: Say, wait_s: float = WAIT_S) -> Prepared:
    """Lay out the run directory of a point, or find out that there is nothing to do; waits for a process that has it.

    What has the wanted hash and a status in ``skip`` is left as it is; what began and has not ended will be resumed.
    Anything else in its place is moved aside: another configuration, and a run that has ended but is not skipped.
    """
    run = point.run
    if held(run, wait_s):
        return attrs.evolve(point, todo=False, why="another process trains it")
    if run.path.exists():
        repair(point, say)
    if run.config_file.exists():
        status = str(run.status().get("status", "interrupted"))
        if (there := config_hash(run.read_config())) != point.hash:
            say(f"{point.label}: another configuration was there, now at {move_aside(run.path, there)}")
        elif matches(status, skip):
            return attrs.evolve(point, todo=False, why=f"already {status}")
        elif matches(status, ("success", "stopped")):
            aside = move_aside(run.path, there)
            say(f"{point.label}: runs again, the run that ended with {status} is now at {aside}")
    if not run.config_file.exists():
        manifest = build_manifest(point.experiment, registry())
        RunDirectory.create(run.path, to_dict(point.experiment), manifest)
    _link(point.place.log, run.path / "log.txt", say)
    if point.place.checkpoints:
        make_directory(run.checkpoint_directory)
        _link(point.place.checkpoints, run.checkpoint_directory, say)
    return point


def move_aside(path: Path, digest: str) -> Path:
    """Rename to ``<name>.<hash8>``, with a number behind it where that is taken; the new path."""
    return path.rename(free_name(path, digest))


def free_name(path: Path, digest: str) -> Path:
    """``<name>.<hash8>`` beside ``path``, with a number behind it where that is taken."""
    names = (f"{path.name}.{digest[:8]}{f'.{number}' if number else ''}" for number in itertools.count())
    return next(free for name in names if not (free := path.with_name(name)).exists())


def held(run: RunDirectory, wait_s: float) -> bool:
    """Whether another process still holds the run after ``wait_s`` seconds."""
    if not run.locked():
        return False
    try:
        with run.hold(wait_s):
            return False
    except RequestError:
        return True


def repair(point: Prepared, say: Say) -> None:
    """Make the records of a run whole again: what cannot be read is kept beside, never deleted."""
    run, there = point.run, _hash_there(point.run)
    try:
        known = run.status().get("hash", there)
    except RequestError:
        known = there
        say(f"{point.label}: status.json is damaged, now at {_keep(run.path / 'status.json')}")
        record = {"status": "interrupted", "hash": there, "error": "the record of the run was damaged"}
        replace_text(run.path / "status.json", to_json(record, indent=1))
    if there and there == known:
        return
    if known == point.hash:
        if run.config_file.exists():
            say(f"{point.label}: config.yaml is damaged, now at {_keep(run.config_file)}")
        run.restore_config(to_dict(point.experiment))
    elif run.config_file.exists() or run.metrics_file.exists() or run.checkpoint_directory.exists():
        say(f"{point.label}: it is not known what ran there, now at {move_aside(run.path, 'unknown')}")


def _hash_there(run: RunDirectory) -> str:
    """The hash of what stands in config.yaml, which may be less than was written; empty if it cannot be read."""
    try:
        return config_hash(run.read_config())
    except (RequestError, FileNotFoundError, UnicodeDecodeError, AttributeError):  # half a file may be YAML of a word
        return ""


def _keep(file: Path) -> Path:
    """A copy of a damaged file: the file itself is only ever replaced by a whole one."""
    free = free_name(file, "damaged")
    shutil.copyfile(file, free)
    return free


def _link(link: Path | None, target: Path, say: Say) -> None:
    """A second name, as a relative symbolic link; what is there and is no link stays."""
    if link is None or link == target:
        return
    make_directory(link.parent)
    if link.is_symlink():
        link.unlink()
    if link.exists():
        say(f"{link} is there already and stays; see {target}")
    else:
        link.symlink_to(os.path.relpath(target, link.parent))
