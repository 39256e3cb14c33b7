"""Running a sweep gives back how its points ended: as rows, as a DataFrame, as text and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from ...core.compose.spec import SpecError, parse_value
from ...core.console.options import columns
from ...core.errors import MissingExtraError, UncollapseError
from ..report.run_status import read_run_status
from ..report.sweep_file import PointFile, SweepFile
from ..report.sweep_status import read_sweep_status
from ..report.table import without_empty
from .aside import matches

if TYPE_CHECKING:
    from pandas import DataFrame

INTERRUPTED = 130
SEED = "seed"
COLUMNS = ("label", SEED, "status", "step", "path")
"""Columns that every table of results has, beside the axes and the metrics."""


@attrs.frozen
class Result:
    """A result says how the points of a sweep ended; whatever else it says is read from the sweep's directory."""

    home: Path
    """The directory of ``sweep.yaml`` and the report."""
    statuses: Mapping[str, str]
    """Status of each point, by its label."""

    @classmethod
    def read(cls, home: str | Path) -> Result:
        """Return the result of a sweep that has run, or still runs, in the directory ``home``.

        Raises RequestError if no sweep is there.
        """
        file = SweepFile.read(Path(home))
        return cls(file.root, {point.label: read_run_status(point.run, point.hash).status for point in file.points})

    @property
    def exit_code(self) -> int:
        """The exit code: 0 if every run used its budget or was stopped by a detector, 130 if interrupted, else 1."""
        left = {status for status in self.statuses.values() if not matches(status, ("success", "stopped"))}
        return (INTERRUPTED if left == {"interrupted"} else 1) if left else 0

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per point, all with the same columns; what a run has not measured is ``None``.

        The columns are ``label``, the axes by their keys, ``seed``, ``status``, ``step`` (the last one), ``path`` (the
        run directory), and the final metrics under the names that the run has logged them by: those of its last step,
        and those of its last validation. An axis that is called like another column stands under ``point.<axis>``.

        Raises:
            RequestError: the directory of the sweep is no longer there, or its ``sweep.yaml`` is damaged.
        """
        file = SweepFile.read(self.home)
        names = {axis: f"point.{axis}" if axis in COLUMNS and axis != SEED else axis for axis in file.axes}
        records = [read_run_status(point.run, point.hash, records=False).record for point in file.points]
        logged = sorted({name for record in records for name in record.get("metrics", {})})
        rows = []
        for point, record in zip(file.points, records, strict=True):
            metrics = record.get("metrics", {})
            final = {name: metrics.get(name) for name in logged}
            rows.append({**self._row(point, names, record.get("step")), **final})
        return rows

    def to_pandas(self) -> DataFrame:
        """Return the :meth:`rows` as a DataFrame.

        Raises:
            MissingExtraError: pandas is not installed.
            RequestError: as of :meth:`rows`.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError("a DataFrame needs the library pandas", str(error), "pip install pandas") from error
        return pandas.DataFrame(self.rows())

    def report(self, correlate: str | None = None, lag: int = 1) -> Path:
        """Write the report as ``uncollapse sweep report`` does: the page, ``runs.csv`` and plots; returns the page.

        Args:
            correlate: a metric, such as ``validation/success``. The page, and ``correlations.csv``, then have the rank
                correlation of every logged metric with the first measurement of this one at least ``lag`` steps later.

        Raises:
            MissingExtraError: matplotlib is not installed.
            RequestError: as of :meth:`rows`; or no run has logged ``correlate``, or ``lag`` is below 1.
        """
        from ..report.following import Target
        from ..report.sweep_report import read_report

        return read_report(self.home, None if correlate is None else Target(correlate, lag)).write()

    def __str__(self) -> str:
        """Return a table with a line per run, and how many ended how."""
        try:
            now = read_sweep_status(self.home)
        except UncollapseError:  # its directory is gone; printing is no reason to fail
            return "\n".join(columns([("run", "status"), *self.statuses.items()]))
        cells = without_empty([row.cells() for row in now.rows])
        lines = [tuple(cells[0]), *(tuple(row.values()) for row in cells)]
        return "\n".join([*columns(lines), f"{now.summary}, in {self.home}"])

    def _row(self, point: PointFile, names: Mapping[str, str], step: int | None) -> dict[str, Any]:
        """Return the columns of a point without its metrics."""
        axes = {name: _value(point.values.get(axis)) for axis, name in names.items()}
        return {
            "label": point.label,
            **axes,
            SEED: axes.get(SEED) if point.seed is None else point.seed,
            "status": self.statuses.get(point.label, "not started"),
            "step": step,
            "path": str(point.run.path),
        }


def _value(text: str | None) -> Any:
    """Return a value of an axis as a number or a truth value if it is one, so that tables can be sorted and grouped."""
    if text is None:
        return None
    try:
        value = parse_value(text)
    except SpecError:
        return text
    return value if isinstance(value, bool | int | float) else text
