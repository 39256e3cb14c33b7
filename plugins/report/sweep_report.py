"""``uncollapse sweep report`` puts everything that is known about a sweep into one directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from . import claim_table, correlation_table
from .claim_check import Claims, check
from .correlation import Correlations, correlate
from .data import SweepData
from .following import Target
from .metrics import SUCCESS
from .page import require_libraries
from .plots import plots
from .rank_correlation import require_scipy
from .ranking import Ranking, rank
from .statistics import Difference, against_first, main_effects
from .sweep_page import page
from .table import (
    NOTE,
    REPAIR,
    SOURCES_NOTE,
    difference_cells,
    print_table,
    ranking_cells,
    ranking_note,
    run_cells,
    seconds_cells,
    summary,
    timing_cells,
    verdict_cells,
    write_csv,
)

MANY = 40
"""Lines of a comparison that a terminal is given at most; more are left to the page."""


@attrs.frozen(eq=False)
class Report:
    """A report has the runs of a sweep and says how they differ."""

    sweep: SweepData
    effects: list[Difference]
    """Differences of each value of each axis from the axis's first one."""
    points: list[Difference]
    """Differences of each point from the first one; empty where a single axis makes that the same comparison."""
    ranking: Ranking | None = None
    """The values of the first axis in order, in a sweep that asks for it; their differences are then here alone."""
    claims: Claims | None = None
    """The claims of the sweep, checked, in a sweep that has some."""
    correlations: Correlations | None = None
    """Every metric against what follows on it, where that was asked for."""

    def print(self, console: Console) -> None:
        """Print the tables on a terminal."""
        print_table(self.sweep.heading, [run_cells(run) for run in self.sweep.runs], console)
        console.print(NOTE, style="dim", highlight=False)
        if damaged := self.sweep.left_out():
            console.print(f"In no comparison, since they are damaged: {'; '.join(damaged)}. {REPAIR}", highlight=False)
        if sources := self.sweep.differing_sources():
            print_table("\nSources that differ", sources, console)
            console.print(SOURCES_NOTE, style="dim", highlight=False)
        print_table("\nWhat the detectors said", verdict_cells(self.sweep.runs), console)
        print_table("\nTime of each run", [timing_cells(run) for run in self.sweep.runs], console)
        print_table("\nSeconds per step", [seconds_cells(run) for run in self.sweep.runs], console)
        if self.ranking:
            print_table(f"\nRanking by {self.ranking.axis}", ranking_cells(self.ranking), console)
            console.print(ranking_note(self.ranking), style="dim", highlight=False)
        if self.claims:
            claim_table.print_claims(self.claims, console)
        for what, effects in (("each setting", self.effects), ("each point", self.points)):
            print_table(
                f"\nValidation success: {what}", [difference_cells(effect) for effect in effects[:MANY]], console
            )
            if len(effects) > MANY:
                console.print(f"{len(effects) - MANY} more are in the page", style="dim", highlight=False)
        if self.correlations:
            correlation_table.print_correlations(self.correlations, console, MANY)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of the tables, unrounded, as plain data."""
        return {
            "sweep": self.sweep.name,
            "axes": dict(self.sweep.axes),
            "runs": [summary(run) for run in self.sweep.runs],
            "left_out": self.sweep.left_out(),
            "sources": self.sweep.differing_sources(),
            "verdicts": {
                run.label: list(run.run_status.verdicts) for run in self.sweep.runs if run.run_status.verdicts
            },
            "effects": [attrs.asdict(effect) for effect in self.effects],
            "points": [attrs.asdict(effect) for effect in self.points],
            **({"ranking": attrs.asdict(self.ranking)} if self.ranking else {}),
            **({"claims": claim_table.to_dict(self.claims)} if self.claims else {}),
            **({"correlations": correlation_table.to_dict(self.correlations)} if self.correlations else {}),
        }

    def write(self) -> Path:
        """Write ``report/``: page, ``runs.csv``, a PNG per metric, ``correlations.csv`` if asked for; returns the page.

        Raises:
            MissingExtraError: matplotlib or jinja2 is not installed.
        """
        require_libraries()
        directory = self.sweep.root / "report"
        drawn = plots(self.sweep)
        directory.mkdir(parents=True, exist_ok=True)
        for plot in drawn:
            (directory / f"{plot.name}.png").write_bytes(plot.png)
        write_csv(directory / "runs.csv", self.sweep.runs)
        if self.correlations:
            correlation_table.write_csv(directory / "correlations.csv", self.correlations)
        file = directory / "report.html"
        text = page(self.sweep, self.effects, self.points, drawn, self.ranking, self.claims, self.correlations)
        file.write_text(text, encoding="utf-8")
        return file


def read_report(root: str | Path, target: Target | None = None) -> Report:
    """Read the sweep under ``root``, finished or not, and hold every metric against the ``target`` if there is one.

    Raises:
        RequestError: no sweep is there, or no run has logged the target.
        MissingExtraError: there is a target, and scipy is not installed.
    """
    if target:
        require_scipy()
    return report_of(SweepData.read(Path(root), target), target)


def report_of(sweep: SweepData, target: Target | None = None) -> Report:
    """Return the report of runs that were read with this ``target``. Raises RequestError if no run has logged it."""
    ranking = rank(sweep) if sweep.ranked else None
    # a second verdict on the same difference, without the correction, would contradict the first
    others = {axis: values for axis, values in sweep.axes.items() if not ranking or axis != ranking.axis}
    effects = main_effects(sweep.runs, others, SUCCESS)
    points = against_first(sweep.runs, SUCCESS)
    several = len({effect.axis for effect in effects}) > 1
    where = ", ".join(map(str, sweep.pooled or [sweep.root]))
    correlations = correlate(sweep.runs, target, where) if target else None
    claims = check(sweep.runs, sweep.claims) if sweep.claims else None
    return Report(sweep, effects, points if several and not ranking else [], ranking, claims, correlations)
