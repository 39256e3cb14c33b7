"""``status.json`` says how a run stands, is replaced as a whole, and tells how long the run has been at work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import RESUME, RequestError
from ..files import encode, is_number, read_bytes, replace_text, to_json


class Status(StrEnum):
    """A status says how a run stands; that of a run which a detector has stopped is written ``stopped:<detector>``."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    STOPPED = "stopped"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @classmethod
    def of(cls, written: str) -> Status:
        """The status that a record says. Raises ValueError if it is none."""
        word, _, detector = written.partition(":")
        is_whole = bool(detector) if word == cls.STOPPED else word == written
        if word not in list(cls) or not is_whole:
            raise ValueError(f"{written!r} is no status of a run")
        return cls(word)


def is_status(written: str) -> bool:
    """Whether a text is the status of a run."""
    try:
        Status.of(written)
    except ValueError:
        return False
    return True


def stopped_by(detector: str) -> str:
    """The status of a run that a detector has stopped, as it is written."""
    return f"{Status.STOPPED}:{detector}"


KINDS: Mapping[str, type] = {
    "status": str, "step": int, "first_step": int, "attempts": int, "metrics": dict, "timings": dict, "verdict": dict,
    "verdicts": list, "overruled": list, "broken_detectors": dict, "earlier_s": float, "hash": str,
}  # fmt: skip
"""Type of each field, where it is there."""
LONGEST_S = 1e11
"""Seconds, an upper limit: three thousand years."""
TIMES = ("started", "resumed", "ended", "updated")


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read(file: Path) -> dict[str, Any]:
    """The record; {} if there is none.

    Raises:
        RequestError: the file is damaged.
    """
    try:
        record: dict[str, Any] = json.loads(read_bytes(file).decode())
        wrong = _wrong(record)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        wrong = f"it cannot be read: {error.strerror}"
    except ValueError:
        wrong = "it is no JSON"
    if wrong:
        fix = f"continue the run with {RESUME}, or run its sweep again: it is written anew"
        raise RequestError(f"the run's status is damaged: {wrong}", str(file), fix)
    return record


def _wrong(record: object) -> str:
    if not isinstance(record, dict):
        return "it is no record"
    for key in KINDS.keys() & record.keys():
        kinds = (int, float) if KINDS[key] is float else KINDS[key]
        if not isinstance(record[key], kinds) or isinstance(record[key], bool):
            return f"{key} is {record[key]!r}"
    times = {"earlier_s": record.get("earlier_s", 0.0), **record.get("timings", {})}
    numbers = {name: value for name, value in record.get("metrics", {}).items() if value is not None}
    for name, value in {**numbers, **times}.items():
        if not is_number(value) or (name in times and not abs(value) < LONGEST_S):
            return f"{name} is {value!r}"
    for verdict in [record.get("verdict", {}), *record.get("verdicts", [])]:
        if not _is_verdict(verdict):
            return f"a verdict is {verdict!r}"
    if "status" in record and not is_status(record["status"]):
        return f"status is {record['status']!r}"
    for key in set(TIMES) & record.keys():
        try:
            has_time_zone = datetime.fromisoformat(record[key]).utcoffset() is not None
        except (TypeError, ValueError):
            has_time_zone = False
        if not has_time_zone:  # without its time zone it cannot be held against another time
            return f"{key} is {record[key]!r}"
    return ""


def _is_verdict(verdict: object) -> bool:
    if not isinstance(verdict, dict):
        return False
    return isinstance(verdict.get("reason", ""), str) and isinstance(verdict.get("evidence", {}), dict)


def write(file: Path, record: Mapping[str, Any]) -> None:
    """Replace the record; ``None`` removes a field."""
    kept = {key: value for key, value in record.items() if value is not None}
    try:
        replace_text(file, to_json(kept, indent=1))
    except OSError:
        if not file.exists():
            raise
        # A full disk has no room for a second file, but the blocks of this one are there: say the least in place.
        short = {key: kept[key] for key in ("status", "step", "started", "ended", "error") if key in kept}
        with file.open("rb+") as stream:
            stream.write(encode(to_json(short)))
            stream.truncate()


def seconds(record: Mapping[str, Any], now: datetime | None = None) -> float | None:
    """Count how long a run has been at work, over all its attempts; None if it never began.

    The time between an attempt and the next does not count. The last attempt lasts to its end; one that has not ended
    lasts to ``now``, or where that is not given to its last sign of life.
    """
    begun = record.get("resumed", record.get("started"))
    if begun is None:
        return None
    ended = record.get("ended")
    until = now if now and ended is None else datetime.fromisoformat(ended or record.get("updated", begun))
    earlier_s: float = record.get("earlier_s", 0.0)
    return earlier_s + max(0.0, (until - datetime.fromisoformat(begun)).total_seconds())
