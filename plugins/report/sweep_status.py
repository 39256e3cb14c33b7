"""``uncollapse sweep status`` says how every run of a sweep stands now, from one small file per run."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...core.errors import UncollapseError
from .metrics import ENDS, SUCCESS
from .run_status import RunStatus, read_run_status
from .sweep_file import PointFile, SweepFile

UNDER_WAY = ("not started", "queued", "running")
"""Statuses that will change while the sweep runs."""

STYLES = {
    "success": "green",
    "running": "cyan",
    "failed regime": "yellow",
    "failed": "red",
    "killed": "red",
    "damaged": "red",
    "interrupted": "magenta",
}
SHORTENED = ("run", "directory", "status", "host", "why")
"""Columns that give way where a terminal is narrow; numbers do not."""
FRAME = 5
"""Lines around those of the runs: title, names of the columns, and counts, which may take more than one."""


@attrs.frozen
class Row:
    """A row is one run, as far as its ``status.json`` tells."""

    label: str
    """The name of its directory."""
    title: str
    """Name that people read: ``kl 0.01, seed 0``."""
    status: str
    """Status as in status.json, or ``not started``, ``killed``, ``damaged``."""
    status_text: str
    """Status in words: ``failed regime (<detector>)`` for ``stopped:<detector>``."""
    step: int | None
    steps: int | None
    """Number of steps that it is to do."""
    seconds: float | None
    """Seconds that it trained for, as it recorded; else in its processes to their end, or to now if it runs."""
    success: float | None
    """Validation success, if the last step was validated; this and the rest are those of the last step."""
    success_se: float | None
    reward: float | None
    entropy: float | None
    gpu: str
    host: str
    reason: str
    """Reason of the status: the verdict, the first line of the error, the damage."""

    def cells(self) -> dict[str, str]:
        """Return the text of each column."""
        success = _number(self.success) + (f" ± {self.success_se:.3f}" if self.success_se is not None else "")
        steps = "" if self.steps is None else f"/{self.steps}"
        return {
            "run": self.title,
            "status": self.status_text,
            "step": "–" if self.step is None else f"{self.step}{steps}",
            "time": "–" if self.seconds is None else str(timedelta(seconds=round(self.seconds))),
            "validation success": success,
            "reward": _number(self.reward),
            "entropy": _number(self.entropy),
            "gpu": self.gpu or "–",
            "host": self.host or "–",
            "directory": "" if self.label == self.title else self.label,
            "why": self.reason,
        }


@attrs.frozen
class SweepStatus:
    """The status of a sweep is how its runs stand at one moment."""

    name: str
    root: Path
    rows: Sequence[Row]
    scheduled: bool = False
    """Whether a process runs the sweep."""

    @property
    def counts(self) -> dict[str, int]:
        """Outcome -> how many runs; each run counts once."""
        return dict(Counter(row.status_text for row in self.rows))

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more without another command: no run is under way, or nobody runs the sweep."""
        states = {row.status for row in self.rows}
        return "running" not in states and not (self.scheduled and states & {*UNDER_WAY, "killed"})

    @property
    def summary(self) -> str:
        """The counts in a line, and whether nobody is there to start what is left."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        left = sum(row.status in (*UNDER_WAY[:2], "killed") for row in self.rows)
        alone = f"; nobody runs the sweep: run it again for the {left} that are left" if left and self.ended else ""
        return f"{len(self.rows)} runs: {counts}{alone}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; what is not known is ``None`` or empty."""
        rows = [attrs.asdict(row) for row in self.rows]
        return {"sweep": self.name, "directory": str(self.root), "counts": self.counts, "runs": rows}

    def print(self, console: Console) -> None:
        """Print a table on a terminal; elsewhere one line per run, its columns apart by tabs, under a line of names."""
        if console.is_terminal:
            console.print(self.table())
            return
        lines = [row.cells() for row in self.rows]
        for line in [list(lines[0]), *(cells.values() for cells in lines), [self.summary]]:
            console.file.write("\t".join(line) + "\n")

    def table(self, height: int | None = None) -> RenderableType:
        """Return the table; with ``height``, at most so many lines, where runs that do not run give way."""
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
            style = STYLES.get(row.status_text.partition(" (")[0], "dim")
            table.add_row(*(Text(text, style if column == "status" else "") for column, text in cells.items()))
        return Group(table, Text(f"{hidden}{self.summary}", "dim"))


def read_sweep_status(directory: str | Path) -> SweepStatus:
    """Read ``sweep.yaml``, every ``status.json``, and whether the records of runs that have ended are whole.

    Raises RequestError if no sweep is there.
    """
    return _status(SweepFile.read(Path(directory)))


def watch(directory: str | Path, console: Console, every_s: float = 2.0) -> SweepStatus:
    """Show the table and keep it current until no run is under way, nobody runs the sweep, or Ctrl-C.

    Not on a terminal it prints the lines of :meth:`SweepStatus.print` once, and again after the last run has ended.
    Returns the last status.

    Raises:
        RequestError: no sweep is there.
    """
    now = read_sweep_status(directory)
    try:
        if console.is_terminal:
            with Live(now.table(console.height), console=console, auto_refresh=False) as live:
                while not now.ended:
                    time.sleep(every_s)
                    now = read_sweep_status(directory)
                    live.update(now.table(console.height), refresh=True)
        else:
            now.print(console)
            under_way = not now.ended
            while not now.ended:
                time.sleep(every_s)
                now = read_sweep_status(directory)
            if under_way:
                now.print(console)
    except KeyboardInterrupt:
        pass
    return now


def _status(file: SweepFile) -> SweepStatus:
    now = datetime.now(UTC)
    scheduled = file.scheduled  # before the runs: a sweep that ends in between is looked at once more
    rows = [_row(point, read_run_status(point.run, point.hash), now) for point in file.points]
    return SweepStatus(file.name, file.root, rows, scheduled)


def _row(point: PointFile, run_status: RunStatus, now: datetime) -> Row:
    record = run_status.record
    metrics = record.get("metrics", {})
    return Row(
        label=point.label,
        title=point.title,
        status=run_status.status,
        status_text=run_status.status_text,
        step=record.get("step"),
        steps=point.steps,
        seconds=_seconds(run_status, now),
        success=metrics.get(SUCCESS),
        success_se=metrics.get(f"{SUCCESS}_se"),
        reward=metrics.get(ENDS["reward"]),
        entropy=metrics.get(ENDS["entropy"]),
        gpu=str(record.get("gpu", "")),
        host=str(record.get("host", "")),
        reason=run_status.reason,
    )


def _seconds(run_status: RunStatus, now: datetime) -> float | None:
    running = run_status.status == "running"
    if not running and "total" in run_status.timings:
        return run_status.timings["total"]
    return run_status.lasted(now if running else None)  # of several attempts, without the time between them


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


@contextmanager
def shown(directory: Path, console: Console, every_s: float = 2.0) -> Iterator[None]:
    """Show the table of a sweep on a terminal, below whatever else is printed, kept current as long as this lasts."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    with Live(console=console, auto_refresh=False, transient=True) as live, _Ticker(directory, live, every_s):
        yield


class _Ticker:
    """A ticker is a thread that reads how the sweep stands, and shows it."""

    def __init__(self, directory: Path, live: Live, every_s: float) -> None:
        self._directory, self._live = directory, live
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _tick(self) -> None:
        while True:
            with suppress(UncollapseError, OSError):  # a table that cannot be shown never ends a sweep
                self._live.update(read_sweep_status(self._directory).table(self._live.console.height), refresh=True)
            if self._over.wait(self._every_s):
                return
