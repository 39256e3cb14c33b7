"""A run directory holds what a run leaves on disk, whole at any moment.

    config.yaml     the resolved experiment, reloadable      metrics.jsonl       one object per step
    manifest.json   plugins, seeds, versions, hardware       rollouts/step_N.jsonl
    status.json     how the run stands                       checkpoints/step_N/
    log.txt         what it had to say

Rank 0 writes. ``config.yaml``, ``manifest.json`` and ``status.json`` are replaced atomically, ``metrics.jsonl`` grows.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from ..compose.identity import config_hash, differences
from ..errors import RESUME, RequestError, RunError
from ..files import encode, make_directory, open_plain, read_bytes, replace_text, to_json
from ..yaml import SyntaxProblem, dumps, loads
from . import checkpoints, records
from . import status as status_file
from .damage import remove_temporaries
from .locks import take
from .manifest import build_manifest
from .status import Status
from .timings import timings

__all__ = ["RunDirectory", "build_manifest"]


@attrs.frozen
class RunDirectory:
    """The directory of one run, at ``path``."""

    path: Path = attrs.field(converter=Path)

    # --- creating and opening ---

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> RunDirectory:
        """Lay out the directory of a new run, which may be that of a run that has not done a step yet.

        Raises:
            RequestError: a run is there already, of this experiment or of another one, or the directory cannot be
                written. Nothing is changed.
        """
        run = cls(path)
        if run.config_file.exists():
            status = run.status().get("status")
            unbegun = status in (Status.QUEUED, Status.FAILED, Status.INTERRUPTED)
            begun = not unbegun or run.metrics() or run.checkpoints()
            if begun or status == Status.QUEUED:
                run.refuse_another(config)
            if begun:
                raise RequestError(
                    f"there is a run of this experiment already ({run.status().get('status', 'without a status')})",
                    str(run.path),
                    f"continue it with {RESUME}, or give another run directory",
                )
        elif run.metrics_file.exists() or run.latest():
            fix = f"continue the run with {RESUME}, or give another run directory"
            raise RequestError("there is a run that has lost its config.yaml", str(run.path), fix)
        make_directory(run.path)
        replace_text(run.path / "manifest.json", to_json(manifest, indent=1))
        run.set_status(Status.QUEUED, hash=config_hash(config))
        # Last: a directory is a run from here on.
        replace_text(run.config_file, dumps(dict(config)))
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The run that is at ``path``. Raises RequestError if there is none."""
        run = cls(path)
        if not run.config_file.is_file():
            fix = "give the directory that a run was trained in"
            raise RequestError("this is no run directory: it has no config.yaml", str(run.path), fix)
        return run

    def refuse_another(self, config: Mapping[str, Any], fix: str = "give another run directory") -> None:
        """Raises RequestError if the run is not one of this very experiment."""
        stored = self.read_config()
        if config_hash(stored) != config_hash(config):
            keys = "\n  ".join(f"{key}: {old} there, {new} asked for" for key, old, new in differences(stored, config))
            raise RequestError(f"the directory holds a run of another experiment:\n  {keys}", str(self.path), fix)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    def read_config(self) -> dict[str, Any]:
        """The resolved experiment as plain data."""
        try:
            config = loads(read_bytes(self.config_file).decode())
        except FileNotFoundError:
            raise
        except (SyntaxProblem, UnicodeDecodeError, OSError) as error:
            reason = getattr(error, "strerror", "") or error
            raise RequestError(f"the run's configuration is damaged: {reason}", str(self.config_file)) from error
        if not isinstance(config, dict) or not config:
            reason = "it is empty" if not config else "it is no mapping"
            raise RequestError(f"the run's configuration is damaged: {reason}", str(self.config_file))
        return config

    def restore_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration of this run again, where the file was damaged."""
        replace_text(self.config_file, dumps(dict(config)))

    def manifest(self) -> dict[str, Any]:
        """What the run was made with. Raises RequestError if the file is missing or damaged."""
        file = self.path / "manifest.json"
        try:
            manifest = json.loads(read_bytes(file).decode())
        except (OSError, ValueError) as error:
            raise RequestError("the run's manifest is missing or damaged", str(file)) from error
        if not isinstance(manifest, dict):
            raise RequestError("the run's manifest is damaged: it is no record", str(file))
        return manifest

    def remove_leftovers(self) -> None:
        """Delete what processes that were killed were writing here; only whoever holds the run may."""
        for directory in (self.path, self.path / "rollouts", self.path / "wandb"):
            remove_temporaries(directory)
        for unfinished in self.checkpoint_directory.glob("step_*.tmp"):
            checkpoints.delete(unfinished)

    # --- one process at a time ---

    @contextmanager
    def hold(self, wait_s: float = 0.0) -> Iterator[None]:
        """Be the only process that trains here; the lock goes with the process, whatever ends it.

        Raises:
            RequestError: another process still holds the run after ``wait_s`` seconds.
        """
        with open_plain(self.path / ".lock", "ab") as lock:
            deadline = time.monotonic() + wait_s
            while not take(lock):
                if time.monotonic() >= deadline:
                    record = self.status()
                    who = f"process {record.get('pid', 'unknown')} on {record.get('host', 'another machine')}"
                    raise RequestError(f"{who} is training here", str(self.path), "wait for it, or stop it")
                time.sleep(0.1)
            yield

    def locked(self) -> bool:
        """Whether a process holds the run."""
        try:
            with open_plain(self.path / ".lock") as lock:
                return not take(lock, shared=True)
        except PermissionError:
            raise
        except OSError:  # there is none, or what is in its place can be held by nobody
            return False

    # --- status ---

    def begin(self, **fields: object) -> None:
        """Record that an attempt to train begins; ``fields`` as of :meth:`set_status`. Earlier ones are counted."""
        record = self.status()
        fields["attempts"] = record.get("attempts", 0) + 1
        fields["earlier_s"] = status_file.seconds(record)
        fields["resumed"] = status_file.now() if "started" in record else None
        self.set_status(Status.RUNNING, **fields)

    def set_status(self, status: str, **fields: object) -> None:
        """Record how the run stands; ``fields`` are kept until they are set anew, ``None`` removes one.

        ``status`` is a :class:`~.status.Status`, with the detector if one has stopped the run. Times are in UTC.

        Raises ValueError if it is none.
        """
        Status.of(status)
        now, record = status_file.now(), self.status()
        if status == Status.RUNNING:
            record = {"started": now} | record | {"pid": os.getpid(), "host": socket.gethostname(), "ended": None}
        elif status != Status.QUEUED:
            record["ended"] = now
        status_file.write(self.status_file, record | fields | {"status": str(status), "updated": now})

    def annotate(self, **fields: object) -> None:
        """Add to the record of a run that nobody trains, and leave how it stands as it is, also on a full disk."""
        replace_text(self.status_file, to_json(self.status() | fields, indent=1))

    def status(self) -> dict[str, Any]:
        """``status``, ``started``, ``ended``, ``updated``, ``pid``, ``host`` and whatever else was set; {} if none.

        Raises:
            RequestError: the file is damaged.
        """
        return status_file.read(self.status_file)

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    # --- metrics, rollouts, log ---

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def append_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Add the record of a step; what is not a finite number is written as null. A record that was cut off goes.

        A step that is recorded already stays as it is.
        """
        records.append(self.metrics_file, step, metrics)

    def metrics(self) -> list[dict[str, Any]]:
        """Read all records, in order; null reads as None. A last line that is being written is left out.

        Raises:
            RunError: a record is damaged, or missing by what the others or the status of the run say; with the way out.
        """
        try:
            status = self.status()
        except RequestError:  # whoever needs it will say so
            status = {}
        try:
            metrics = records.read(self.metrics_file)
            records.check_against(status, metrics, self.metrics_file)
        except RunError as error:
            raise RunError(error.what, error.where, records.way_out(self.latest(), status)) from error
        return metrics

    def damaged_records(self) -> RunError | None:
        """What is wrong with the records of this run, and the way out; None if they are whole."""
        try:
            self.metrics()
        except RunError as error:
            return error
        return None

    def timings(self) -> dict[str, float]:
        """Sum up seconds by what they were spent on (:func:`~.timings.timings`); none where the metrics are damaged."""
        try:
            return timings(self.metrics())
        except RunError:
            return {}

    def write_rollouts(self, step: int, episodes: Iterable[Mapping[str, Any]]) -> None:
        """Write the episodes of a step that are kept as text."""
        directory = self.path / "rollouts"
        directory.mkdir(exist_ok=True)
        replace_text(directory / f"step_{step}.jsonl", records.text(episodes))

    def read_rollouts(self, step: int) -> list[dict[str, Any]]:
        """The episodes that :meth:`write_rollouts` wrote, if any. Raises RunError if they are damaged."""
        return records.read_rollouts(self.path / "rollouts" / f"step_{step}.jsonl")

    def log(self, text: str) -> None:
        """Add a line to ``log.txt``, with the time."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with open_plain(self.path / "log.txt", "ab") as stream:
            stream.write(encode(f"{now} {text.rstrip()}\n"))

    # --- checkpoints ---

    @property
    def checkpoint_directory(self) -> Path:
        return self.path / "checkpoints"

    @contextmanager
    def checkpoint(self, step: int, state: Mapping[str, Any], judged: bool = True, keep: int = 0) -> Iterator[Path]:
        """Write a checkpoint: a temporary directory that becomes ``step_N`` on leaving.

        ``state`` goes to the top level of its ``state.json``. With it goes a copy of the records before this step, and
        of its own, ``metrics`` of the state, if the step is ``judged``: otherwise more will be measured. Then only the
        newest ``keep`` checkpoints stay (0: all).
        """
        before = [record for record in self.metrics() if record["step"] < step]
        this_step = records.line(step, state["metrics"]).decode() if judged and "metrics" in state else ""
        with checkpoints.write(self.checkpoint_directory, step, state) as directory:
            replace_text(directory / records.COPY, records.text(before) + this_step)
            yield directory
        self.prune(keep)

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, by step."""
        return [path for path in checkpoints.stored(self.checkpoint_directory) if not checkpoints.damage(path)]

    def saved_steps(self) -> list[int]:
        """The steps of the complete checkpoints."""
        return [checkpoints.step_of(path) for path in self.checkpoints()]

    def has_ended(self) -> bool:
        """Whether its last step is done, or a detector has stopped it, and its records and checkpoints are whole."""
        return records.has_ended(self.status()) and not self.broken_checkpoints() and self.damaged_records() is None

    def broken_checkpoints(self) -> Sequence[tuple[Path, str]]:
        """The damaged and the unfinished checkpoints, each with what is wrong with it."""
        broken = [(path, checkpoints.damage(path)) for path in checkpoints.stored(self.checkpoint_directory)]
        unfinished = sorted(self.checkpoint_directory.glob("step_*.tmp"))
        return [item for item in broken if item[1]] + [(path, "it was being written") for path in unfinished]

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        good = (
            path for path in reversed(checkpoints.stored(self.checkpoint_directory)) if not checkpoints.damage(path)
        )
        return next(good, None)

    def prune(self, keep: int) -> None:
        """Delete the oldest complete checkpoints until ``keep`` are left; 0 keeps all. One that is being read stays."""
        for path in self.checkpoints()[:-keep] if keep else ():
            checkpoints.remove(path)
