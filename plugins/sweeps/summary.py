"""Summary logs: one line per run, appended as it ends, and at the end every run of the sweep once, with the counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import RequestError
from ...core.files import encode, make_directory, open_plain
from ...core.runs.damage import what_is
from .layout import Place

SECONDS = ("train", "eval", "collapse", "first_turn", "multi_turn", "total")
ERROR_LINES = 2


def line(place: Place, status: Mapping[str, Any]) -> str:
    """Say what the summary says of a run that stands as ``status`` says; of a failed one also the end of its log."""
    spent = status.get("timings", {})
    seconds = {name: f"{spent[name]:.2f}" if name in spent else "N/A" for name in SECONDS}
    wall = f"{spent['wall']:.0f}" if "wall" in spent else "N/A"
    state = str(status.get("status", "not started"))
    shown = "fail" if state == "failed" else state
    text = place.line.safe_substitute(seconds, wall=wall, gpu=status.get("gpu", "N/A"), status=shown)
    return text + (f"\n  error: {_last_lines(place.run / 'log.txt')}" if state == "failed" else "")


def check(file: Path) -> None:
    """Raises RequestError if nothing can be added to the file."""
    make_directory(file.parent)
    odd = what_is(file)
    if odd or not os.access(file if file.exists() else file.parent, os.W_OK):
        what = f"{odd} is in its place" if odd else "it is not to be written"
        raise RequestError(f"the summary log cannot be written: {what}", str(file), "move it away")


def append(file: Path, *lines: str) -> None:
    """Add lines in one write, so that those of several sweeps never mix."""
    make_directory(file.parent)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, encode("".join(f"{text}\n" for text in lines)))
    finally:
        os.close(descriptor)


def closing(entries: Iterable[tuple[Place, Mapping[str, Any]]]) -> list[str]:
    """Return the block that ends a summary log: every run once, and how many ended how."""
    runs = list(entries)
    return ["Summary", *(line(place, status) for place, status in runs), counts([status for _, status in runs])]


def counts(statuses: Sequence[Mapping[str, Any]]) -> str:
    """Count how the runs ended, as in ``success: 60 | stopped: 3 | fail: 1 | total: 64``."""
    states = [str(status.get("status", "not started")).partition(":")[0] for status in statuses]
    number = Counter("fail" if state == "failed" else state for state in states)
    named = {state: number.pop(state, 0) for state in ("success", "stopped", "fail")}
    return " | ".join(f"{state}: {count}" for state, count in {**named, **number, "total": len(statuses)}.items())


def _last_lines(log: Path) -> str:
    try:
        with open_plain(log) as stream:
            stream.seek(max(0, log.stat().st_size - 4096))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return "no log"
    return " / ".join(filter(None, (part.strip() for part in text.splitlines()[-ERROR_LINES:]))) or "the log is empty"
