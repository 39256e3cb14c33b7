"""The records of a run: one JSON object per step in ``metrics.jsonl``, and whether any of them is lost.

Steps follow each other without a gap, from 0 (the validation before training) or 1. What the status of a run says of
its last step is held against them, so that a record which was cut short is not taken for a shorter run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import RESUME, RunError
from ..files import encode, is_number, open_plain, read_bytes, to_json
from .checkpoints import step_of
from .status import Status, is_status

Record = dict[str, Any]
COPY = "metrics.jsonl"
"""In a checkpoint: the records of the run up to its step."""


def read(file: Path) -> list[Record]:
    """Read all records, in order; null reads as None. A last line that is cut off, or being written, is left out.

    Raises:
        RunError: a line is no record of a step, or its step does not follow that of the line before; ``where`` names
            file and line.
    """
    return read_lines(file, "a record of the metrics", _record, _follows)


def read_lines(
    file: Path, what: str, check: Callable[[Any], str], follows: Callable[[int | None, int], str] | None = None
) -> list[Record]:
    """The objects of a file with one per line; none if there is no file. Raises RunError as :func:`read` does."""
    try:
        lines = read_bytes(file).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{what} cannot be read: {error.strerror}", str(file)) from error
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            reason = check(record)
        except ValueError:
            reason = "it is no JSON"
        if not reason and follows:
            reason = follows(records[-1]["step"] if records else None, record["step"])
        if reason:
            raise RunError(f"{what} is damaged: {reason}", f"{file}:{number}")
        records.append(record)
    return records


def _record(record: object) -> str:
    """Say why this is no record of a step; nothing if it is one."""
    if not isinstance(record, dict):
        return "it is no object"
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        return "it has no step"
    for name, value in record.items():
        if value is not None and not is_number(value):
            return f"{name} is no number"
    return ""


def _follows(before: int | None, step: int) -> str:
    if before is None:
        return "" if step in (0, 1) else f"the records begin with step {step}"
    if step == before:
        return f"step {step} stands there twice"
    return "" if step == before + 1 else f"step {step} follows step {before}"


def check_against(status: Mapping[str, Any], records: Sequence[Record], file: Path) -> None:
    """Hold records against the status of their run, which must have been read before them.

    Raises:
        RunError: records are missing at the beginning or at the end, or there are more than the run has done.
    """
    last = records[-1]["step"] if records else -1
    first, ends = status.get("first_step"), status.get("step")
    if first is not None and records and records[0]["step"] != first:
        raise RunError(f"the metrics are damaged: the record of step {first} is missing", f"{file}:1")
    if ends is None or ends == last:
        return
    if last < ends:
        lost = f"the record of step {ends}" if last == ends - 1 else f"the records of steps {last + 1} to {ends}"
        raise RunError(f"the metrics are damaged: {lost} {'is' if last == ends - 1 else 'are'} missing", str(file))
    if has_ended(status):
        raise RunError(
            f"the metrics are damaged: they go on to step {last}, and the run ended at step {ends}", str(file)
        )


def has_ended(status: Mapping[str, Any]) -> bool:
    """Whether a status is that of a run which nothing continues: its last step is done, or a detector stopped it."""
    written = str(status.get("status", ""))
    return is_status(written) and Status.of(written) in (Status.SUCCESS, Status.STOPPED)


def line(step: int, metrics: Mapping[str, float | None]) -> bytes:
    """The line of a step; what is not a finite number is null."""
    values = {key: None if value is None else float(value) for key, value in metrics.items()}
    return encode(to_json({"step": step} | values | {"step": step}) + "\n")


def text(records: Iterable[Mapping[str, Any]]) -> str:
    """Write objects as lines."""
    return "".join(to_json(record) + "\n" for record in records)


def append(file: Path, step: int, metrics: Mapping[str, float | None]) -> None:
    """Add the record of a step. One that was cut off goes; one of this very step stays as it is."""
    added = line(step, metrics)
    with open_plain(file, "ab+") as stream:
        if size := stream.tell():
            tail = _tail(stream, size)
            end = tail.rfind(b"\n") + 1
            stream.truncate(size - len(tail) + end)
            if _step(tail[tail.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]) == step:
                return
        stream.write(added)


def _tail(stream: IO[bytes], size: int) -> bytes:
    """The end of a file, with its last whole line: all of it, or from within the line before."""
    block = 2**14
    while True:
        block *= 4
        stream.seek(max(0, size - block))
        tail = stream.read()
        if block >= size or tail.count(b"\n") > 1:
            return tail


def _step(line: bytes) -> int | None:
    try:
        step: int | None = json.loads(line)["step"]
        return step
    except (ValueError, KeyError, TypeError):
        return None


def read_rollouts(file: Path) -> list[Record]:
    """The episodes of a step. Raises RunError if a line is damaged, or the last one cut off."""
    data = read_bytes(file) if file.is_file() else b""
    if data and not data.endswith(b"\n"):
        number = len(data.split(b"\n"))
        raise RunError("an episode is damaged: its line is cut off", f"{file}:{number}")
    return read_lines(file, "an episode", lambda record: "" if isinstance(record, dict) else "it is no object")


def way_out(checkpoint: Path | None, status: Mapping[str, Any]) -> str:
    """What makes damaged records whole, for a message; arguments as of :func:`outlook`."""
    return f"continue it with {RESUME}, or run its sweep again: {outlook(checkpoint, status)}"


def outlook(checkpoint: Path | None, status: Mapping[str, Any]) -> str:
    """Say how the damaged records of a run will be made whole: from its newest checkpoint, if it has one.

    ``status`` is that of the run.
    """
    if checkpoint is None:
        return "there is no checkpoint with a copy, so it is trained again from the start"
    step = step_of(checkpoint)
    more = "" if status.get("step", 0) <= step else f", and the steps after {step} are trained again"
    return f"its records are restored from {checkpoint.name}{more}"
