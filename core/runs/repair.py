"""The record of a run is made whole again from the copy of it that every checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..compose.identity import config_hash
from ..errors import RequestError, RunError
from ..files import replace_text
from . import checkpoints, records, status
from .damage import clear_ways, keep_aside
from .directory import RunDirectory
from .status import Status

FILES = ("config.yaml", "manifest.json", "status.json", records.COPY, "log.txt", ".lock")


def clear(path: Path) -> list[str]:
    """Move aside what is in the place of a file of the run at ``path`` and is none; what was done, in words."""
    return clear_ways(*(path / name for name in FILES))


def repair(run: RunDirectory) -> str:
    """Restore damaged records from the newest whole checkpoint, while nobody trains; what was done, in words.

    The damaged file is kept beside, as ``metrics.jsonl.damaged``. Where the run had gone on after that checkpoint, or
    has none, its status becomes ``interrupted`` there: it is to be resumed. Whole records are left alone, and the
    answer is empty.
    """
    if (damage := run.damaged_records()) is None:
        return ""
    status_before = run.status()
    checkpoint = run.latest()
    clear(run.path)
    if run.metrics_file.exists():
        keep_aside(run.metrics_file)
    step = rewind(run, checkpoint)
    if step != status_before.get("step") and status_before.get("status") != Status.QUEUED:
        why = f"{damage.what} ({damage.where})"
        ended = status_before.get("ended", status_before.get("updated"))
        run.set_status(Status.INTERRUPTED, error=why, verdict=None, step=step if step >= 0 else None, ended=ended)
    where = f"restored from {checkpoint.name}" if checkpoint else "begun anew: there is no whole checkpoint"
    return f"{damage.what} ({damage.where}): the records were {where}"


def mend(path: Path, config: Mapping[str, Any]) -> list[str]:
    """Make what is damaged of a run whole before it is resumed, by nobody else meanwhile; what was done, in words.

    Leftovers of a kill go. A damaged status is kept beside and begun anew, and so is a damaged configuration if the
    status says that ``config`` is the one.
    """
    run, done = RunDirectory(path), clear(path)
    run.remove_leftovers()
    try:
        record = run.status()
    except RequestError as error:
        keep_aside(run.status_file)
        record = {"status": str(Status.INTERRUPTED), "error": error.what}
        status.write(run.status_file, record)
        done.append(f"{error.what}; it is begun anew")
    try:
        RunDirectory.open(path).read_config()
    except RequestError as error:
        if record.get("hash") != config_hash(config):
            raise
        if run.config_file.exists():
            keep_aside(run.config_file)
        run.restore_config(config)
        done.append(f"{error.what}; it is written again")
    return done


def rewind(run: RunDirectory, checkpoint: Path | None) -> int:
    """Let the records end where a run that is resumed from ``checkpoint`` (None: from the start) goes on.

    The answer is the last step that they hold then, -1 if none.

    What is damaged or missing up to there comes from the copy in the checkpoint.
    """
    copied = _copy(run, checkpoint) if checkpoint else []
    last = copied[-1]["step"] if copied else -1
    try:
        kept = [record for record in records.read(run.metrics_file) if record["step"] <= last]
    except RunError:
        kept = []
    if [record["step"] for record in kept] != [record["step"] for record in copied]:
        kept = copied
    replace_text(run.metrics_file, records.text(kept))
    return last


def _copy(run: RunDirectory, checkpoint: Path) -> list[records.Record]:
    if (file := checkpoint / records.COPY).exists():
        return records.read(file)
    last = checkpoints.step_of(checkpoint)  # of a checkpoint from before they had one
    return [record for record in records.read(run.metrics_file) if record["step"] <= last]
