"""Run directories: what a run leaves on disk, whole at any moment.

    config.yaml     the resolved experiment, reloadable      metrics.jsonl       one object per step
    manifest.json   plugins, seeds, versions, hardware       rollouts/step_N.jsonl
    status.json     how the run stands                       checkpoints/step_N/
    log.txt         what it had to say

Rank 0 writes. ``config.yaml``, ``manifest.json`` and ``status.json`` are replaced atomically, ``metrics.jsonl`` grows.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import attrs

from . import checkpoints
from .errors import RequestError, RunError
from .files import encode, make_directory, replace_text, to_json
from .identity import config_hash, differences, only_memory
from .manifest import build_manifest
from .timings import timings
from .yaml import SyntaxProblem, dumps, loads

__all__ = ["RunDirectory", "build_manifest"]

_STATE = re.compile(r"queued|running|success|failed|interrupted|stopped:.+")


@attrs.frozen
class RunDirectory:
    """The directory of one run, at ``path``."""

    path: Path = attrs.field(converter=Path)

    # --- creating and opening ---

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> RunDirectory:
        """Lay out the directory of a new run; one that has not done a step yet, and is not about to, may be there.

        Raises:
            RequestError: a run is there already, of this experiment or of another one, or the directory cannot be
                written. Nothing is changed.
        """
        run = cls(path)
        if run.config_file.exists():
            status = run.status().get("status")
            begun = status not in ("queued", "failed", "interrupted") or run.metrics() or run.checkpoints()
            if begun or status == "queued":
                run._refuse_another(config)
            if begun:
                raise RequestError(
                    f"there is a run of this experiment already ({run.status().get('status', 'without a status')})",
                    str(run.path),
                    "continue it with --resume, or give another --run-dir",
                )
        make_directory(run.path)
        replace_text(run.path / "manifest.json", to_json(manifest, indent=1))
        run.set_status("queued", hash=config_hash(config))
        # Last: a directory is a run from here on.
        replace_text(run.config_file, dumps(dict(config)))
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """The run that is at ``path``. Raises RequestError if there is none."""
        run = cls(path)
        if not run.config_file.is_file():
            fix = "give the directory of a run, as --run-dir named it"
            raise RequestError("this is no run directory: it has no config.yaml", str(run.path), fix)
        return run

    @classmethod
    def resume(cls, path: str | Path, config: Mapping[str, Any]) -> RunDirectory:
        """The run of this very experiment that is at ``path``; without any checkpoint its metrics start anew.

        Settings that only take less memory (:data:`~.identity.MEMORY`) may differ, so that a run that was too large can
        go on; the configuration on disk is then the new one.

        Raises RequestError if there is no run, or one of another experiment.
        """
        run = cls.open(path)
        there = run.read_config()
        other = config_hash(there) != config_hash(config)
        if other and not only_memory(there, config):
            run._refuse_another(config)
        if other and not run.has_ended():  # one that has keeps the settings that it ran with
            changed = "\n".join(f"  {key}: {old} -> {new}" for key, old, new in differences(there, config))
            run.log(f"resuming with other settings of memory:\n{changed}")
            run.restore_config(config)
            run.annotate(hash=config_hash(config))
        if run.latest() is None:
            run.truncate_metrics(-1)
        return run

    def _refuse_another(self, config: Mapping[str, Any]) -> None:
        there = self.read_config()
        if config_hash(there) != config_hash(config):
            keys = "\n  ".join(f"{key}: {old} there, {new} asked for" for key, old, new in differences(there, config))
            raise RequestError(
                f"the directory holds a run of another experiment:\n  {keys}", str(self.path), "give another --run-dir"
            )

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    def read_config(self) -> dict[str, Any]:
        """The resolved experiment as plain data."""
        try:
            return loads(self.config_file.read_text("utf-8"))
        except (SyntaxProblem, UnicodeDecodeError) as error:
            raise RequestError(f"the run's configuration is damaged: {error}", str(self.config_file)) from error

    def restore_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration of this run again, where the file was damaged."""
        replace_text(self.config_file, dumps(dict(config)))

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.path / "manifest.json").read_text("utf-8"))

    # --- one process at a time ---

    @contextmanager
    def hold(self, wait_s: float = 0.0) -> Iterator[None]:
        """Be the only process that trains here; the lock goes with the process, whatever ends it.

        Raises:
            RequestError: another process still holds the run after ``wait_s`` seconds.
        """
        with (self.path / ".lock").open("ab") as lock:
            deadline = time.monotonic() + wait_s
            while not _lock(lock):
                if time.monotonic() >= deadline:
                    record = self.status()
                    who = f"process {record.get('pid', 'unknown')} on {record.get('host', 'another machine')}"
                    raise RequestError(f"{who} is training here", str(self.path), "wait for it, or stop it")
                time.sleep(0.1)
            yield

    def locked(self) -> bool:
        """Whether a process holds the run."""
        try:
            with (self.path / ".lock").open("rb") as lock:
                return not _lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    # --- status ---

    def set_status(self, status: str, **fields: Any) -> None:
        """Record how the run stands; ``fields`` are kept until they are set anew, ``None`` removes one.

        ``status`` is queued, running, success, stopped:<detector>, failed or interrupted. Times are UTC in ISO 8601.
        """
        if not _STATE.fullmatch(status):
            raise ValueError(f"{status!r} is no status of a run")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        record = self.status()
        if status == "running":
            record = {"started": now} | record | {"pid": os.getpid(), "host": socket.gethostname(), "ended": None}
        elif status != "queued":
            record["ended"] = now
        record |= {**fields, "status": status, "updated": now}
        self._write_status({key: value for key, value in record.items() if value is not None})

    def annotate(self, **fields: Any) -> None:
        """Add to the record of a run that nobody trains, and leave how it stands as it is."""
        self._write_status(self.status() | fields)

    def _write_status(self, kept: Mapping[str, Any]) -> None:
        file = self.path / "status.json"
        try:
            replace_text(file, to_json(kept, indent=1))
        except OSError:
            if not file.exists():
                raise
            # A full disk has no room for a second file, but the blocks of this one are there: say the least in place.
            short = {key: kept[key] for key in ("status", "started", "ended", "error") if key in kept}
            with file.open("rb+") as stream:
                stream.write(encode(to_json(short)))
                stream.truncate()

    def status(self) -> dict[str, Any]:
        """``status``, ``started``, ``ended``, ``updated``, ``pid``, ``host`` and whatever else was set; {} if none.

        Raises:
            RequestError: the file is damaged.
        """
        file = self.path / "status.json"
        try:
            record = json.loads(file.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            raise RequestError("the run's status is damaged", str(file), "delete the file") from error
        if not isinstance(record, dict):
            raise RequestError("the run's status is damaged: it is no record", str(file), "delete the file")
        return record

    # --- metrics, rollouts, log ---

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    def append_metrics(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Add the record of a step; what is not a finite number is written as null. A record that was cut off goes."""
        values = {key: None if value is None else float(value) for key, value in metrics.items()}
        line = encode(to_json({"step": step} | values | {"step": step}) + "\n")
        with self.metrics_file.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.truncate(self.metrics_file.read_bytes().rfind(b"\n") + 1)
            stream.write(line)

    def metrics(self) -> list[dict[str, Any]]:
        """All records, in order; null reads as None. A last line that is cut off is left out.

        Raises:
            RunError: a line in the middle is damaged.
        """
        try:
            lines = self.metrics_file.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise RunError("a record of the metrics is damaged", f"{self.metrics_file}:{number}") from error
        return records

    def timings(self) -> dict[str, float]:
        """Seconds by what they were spent on, see :func:`~.timings.timings`; none where the metrics are damaged."""
        try:
            return timings(self.metrics())
        except RunError:
            return {}

    def truncate_metrics(self, step: int, metrics: Mapping[str, float | None] | None = None) -> None:
        """Drop the records after ``step``, where a resumed run goes on.

        ``metrics``: those of ``step`` itself, added if the run was killed between its checkpoint and its record.
        """
        kept = [record for record in self.metrics() if record["step"] <= step]
        replace_text(self.metrics_file, "".join(to_json(record) + "\n" for record in kept))
        if metrics is not None and step not in {record["step"] for record in kept}:
            self.append_metrics(step, metrics)

    def write_rollouts(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Write the episodes of a step that are kept as text."""
        directory = self.path / "rollouts"
        directory.mkdir(exist_ok=True)
        replace_text(directory / f"step_{step}.jsonl", "".join(to_json(record) + "\n" for record in records))

    def read_rollouts(self, step: int) -> list[dict[str, Any]]:
        """The episodes that :meth:`write_rollouts` wrote; none if it wrote none."""
        file = self.path / "rollouts" / f"step_{step}.jsonl"
        return [json.loads(line) for line in file.read_bytes().split(b"\n") if line] if file.exists() else []

    def log(self, text: str) -> None:
        """Add a line to ``log.txt``, with the time."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with (self.path / "log.txt").open("ab") as stream:
            stream.write(encode(f"{now} {text.rstrip()}\n"))

    # --- checkpoints ---

    @property
    def checkpoint_directory(self) -> Path:
        return self.path / "checkpoints"

    @contextmanager
    def checkpoint(self, step: int, state: Mapping[str, Any], keep: int = 0) -> Iterator[Path]:
        """Write a checkpoint: a temporary directory that becomes ``step_N`` on leaving.

        ``state`` goes to the top level of its ``state.json``. Then only the newest ``keep`` checkpoints stay (0: all).
        """
        with checkpoints.write(self.checkpoint_directory, step, state) as directory:
            yield directory
        self.prune(keep)

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, by step."""
        return [path for path in checkpoints.stored(self.checkpoint_directory) if not checkpoints.damage(path)]

    def has_ended(self) -> bool:
        """Whether its last step is done, or a detector has stopped it, and its checkpoints are whole."""
        status = str(self.status().get("status", ""))
        return (status == "success" or status.startswith("stopped:")) and not self.broken_checkpoints()

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
        """Delete the oldest complete checkpoints until ``keep`` are left; 0 keeps all."""
        for path in self.checkpoints()[:-keep] if keep else ():
            shutil.rmtree(path)


def _lock(file: IO[bytes], how: int = fcntl.LOCK_EX) -> bool:
    """Whether the lock could be had at once."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
