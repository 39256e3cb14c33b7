"""``uncollapse sweep status``: how every run of a sweep stands, now, from one small file per run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .metrics import ENDS, SUCCESS
from .standing import Standing, read_standing
from .sweep_file import PointFile, SweepFile

UNDER_WAY = ("not started", "queued", "running")
"""Outcomes that will change while the sweep runs."""

STYLES = {
    "success": "green",
    "running": "cyan",
    "failed regime": "yellow",
    "failed": "red",
    "killed": "red",
    "damaged": "red",
    "interrupted": "magenta",
}
SHORTENED = ("run", "outcome", "host", "why")
"""Columns that give way where a terminal is narrow; numbers do not."""
FRAME = 5
"""Lines around those of the runs: title, names of the columns, and counts, which may take more than one."""


@attrs.frozen
class Row:
    """One run, as far as its ``status.json`` tells."""

    label: str
    status: str
    """As in status.json, or ``not started``, ``killed``, ``damaged``."""
    outcome: str
    """The status in words: ``failed regime (<detector>)`` for ``stopped:<detector>``."""
    step: int | None
    steps: int | None
    """How many it is to do."""
    seconds: float | None
    """That it trained for, as it recorded; else from its start to its end, or to now if it runs."""
    success: float | None
    """Validation success, if the last step was validated; this and the rest are those of the last step."""
    success_se: float | None
    reward: float | None
    entropy: float | None
    gpu: str
    host: str
    reason: str
    """Why: the verdict, the first line of the error, the damage."""

    def cells(self) -> dict[str, str]:
        """Column -> text."""
        success = _number(self.success) + (f" ± {self.success_se:.3f}" if self.success_se is not None else "")
        steps = "" if self.steps is None else f"/{self.steps}"
        return {
            "run": self.label,
            "outcome": self.outcome,
            "step": "–" if self.step is None else f"{self.step}{steps}",
            "time": "–" if self.seconds is None else str(timedelta(seconds=round(self.seconds))),
            "validation success": success,
            "reward": _number(self.reward),
            "entropy": _number(self.entropy),
            "gpu": self.gpu or "–",
            "host": self.host or "–",
            "why": self.reason,
        }


@attrs.frozen
class Status:
    """How the runs of a sweep stand at one moment."""

    name: str
    root: Path
    rows: Sequence[Row]

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> how many runs; each run counts once."""
        return dict(Counter(row.outcome for row in self.rows))

    @property
    def ended(self) -> bool:
        """Whether no run is left that could change without another command."""
        return not any(row.status in UNDER_WAY for row in self.rows)

    @property
    def summary(self) -> str:
        """The counts in a line."""
        return f"{len(self.rows)} runs: " + ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is not known is ``None`` or empty."""
        rows = [attrs.asdict(row) for row in self.rows]
        return {"sweep": self.name, "directory": str(self.root), "counts": self.counts, "runs": rows}

    def print(self, console: Console) -> None:
        """A table for a terminal; elsewhere one line per run, its columns apart by tabs, under a line of names."""
        if console.is_terminal:
            console.print(self.table())
            return
        lines = [row.cells() for row in self.rows]
        for line in [list(lines[0]), *(cells.values() for cells in lines), [self.summary]]:
            console.file.write("\t".join(line) + "\n")

    def table(self, height: int | None = None) -> RenderableType:
        """The table; with ``height``, at most so many lines, where runs that do not run give way."""
        rows, hidden = list(self.rows), ""
        if height is not None and len(rows) > height - FRAME:
            by_interest = sorted(range(len(rows)), key=lambda at: rows[at].status != "running")
            rows = [rows[at] for at in sorted(by_interest[: max(1, height - FRAME)])]
            hidden = f"{len(self.rows) - len(rows)} runs more than the terminal has lines; "
        table = Table(title=f"Sweep {self.name}", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        lines = [row.cells() for row in rows]
        for column in lines[0]:
            whole = (
                None
                if column in SHORTENED
                else max(len(text) for text in (column, *(cells[column] for cells in lines)))
            )
            table.add_column(column, overflow="ellipsis", no_wrap=True, min_width=whole)
        for row, cells in zip(rows, lines, strict=True):
            style = STYLES.get(row.outcome.partition(" (")[0], "dim")
            table.add_row(*(Text(text, style if column == "outcome" else "") for column, text in cells.items()))
        return Group(table, Text(f"{hidden}{self.summary}", "dim"))


def status(directory: str | Path) -> Status:
    """Read ``sweep.yaml`` and every ``status.json``, nothing else. Raises RequestError if no sweep is there."""
    return _status(SweepFile.read(Path(directory)))


def watch(directory: str | Path, console: Console, every_s: float = 2.0) -> Status:
    """Show the table and keep it current until no run is under way, or until Ctrl-C; returns the last state.

    Not on a terminal, the lines of :meth:`Status.print` once, and again after the last run has ended.

    Raises:
        RequestError: no sweep is there.
    """
    now = status(directory)
    try:
        if console.is_terminal:
            with Live(now.table(console.height), console=console, auto_refresh=False) as live:
                while not now.ended:
                    time.sleep(every_s)
                    now = status(directory)
                    live.update(now.table(console.height), refresh=True)
        else:
            now.print(console)
            under_way = not now.ended
            while not now.ended:
                time.sleep(every_s)
                now = status(directory)
            if under_way:
                now.print(console)
    except KeyboardInterrupt:
        pass
    return now


def _status(file: SweepFile) -> Status:
    now = datetime.now(UTC)
    return Status(
        file.name, file.root, [_row(point, read_standing(point.run, point.hash), now) for point in file.points]
    )


def _row(point: PointFile, standing: Standing, now: datetime) -> Row:
    record = standing.record
    metrics = record.get("metrics", {})
    return Row(
        label=point.label,
        status=standing.status,
        outcome=standing.outcome,
        step=record.get("step"),
        steps=point.steps,
        seconds=_seconds(standing, now),
        success=metrics.get(SUCCESS),
        success_se=metrics.get(f"{SUCCESS}_se"),
        reward=metrics.get(ENDS["reward"]),
        entropy=metrics.get(ENDS["entropy"]),
        gpu=str(record.get("gpu", "")),
        host=str(record.get("host", "")),
        reason=standing.reason,
    )


def _seconds(standing: Standing, now: datetime) -> float | None:
    running = standing.status == "running"
    if not running and "total" in standing.timings:
        return standing.timings["total"]
    return standing.lasted(now if running else None)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
