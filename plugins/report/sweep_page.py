"""The page of a sweep has findings, tables, plots, the commands to run it again, and what the policies wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from . import claim_table, correlation_table
from .claim_check import Checked, Claims
from .correlation import Correlations
from .data import RunData, SweepData
from .page import Card, Cell, Chip, Fold, Interval, Section, render
from .plots import Plot, many
from .ranking import Ranking
from .statistics import Difference
from .table import (
    NOTE,
    REPAIR,
    SECONDS_NOTE,
    SOURCES_NOTE,
    TIMINGS_NOTE,
    difference_cells,
    ranking_cells,
    ranking_note,
    run_cells,
    seconds_cells,
    timing_cells,
    verdict_cells,
    without_empty,
)
from .transcripts import transcripts

EFFECTS = (
    "The last validation success of each value less that of the first value of its axis, averaged over pairs of runs "
    "that differ in nothing else. Bars reach two standard errors either way: what is below two standard errors is not "
    "distinguishable from no difference. Runs that a detector stopped are failed regimes: named, not averaged."
)
POINTS = "Each point against the first one, averaged over seeds where there are several."
FINALS = (
    "Faint points are runs that used their budget, bold ones their mean with one standard error: over the runs, or "
    "over their validation tasks where that is larger. Marks at the right are runs that a detector stopped, at their "
    "last value: they are in no mean. Runs that have not ended are absent."
)
CURVES = (
    "Bold lines are means over the last 5 steps, faint lines the steps themselves; bars at validations are one "
    "standard error over tasks; marks are runs that a detector stopped. Where seeds are swept, a line is the mean over "
    "the seeds that no detector stopped, its band is from the lowest to the highest, and thin lines are the others."
)
CURVES_OF_MANY = (
    "A line is the mean over the runs of a value that no detector stopped, as far as they have come, and over the last "
    "5 steps (validations: as they are); its band is one standard error over these runs, whatever else differs among "
    "them. Marks are runs that a detector stopped, at their last value."
)
VERDICTS = "The first verdict of each detector that had one, with what it saw."
CARDS = 12
"""Largest number of findings at the top; all are in the table."""
MIDDLE = 90.0
"""Pixel of the scale of the differences that stands for 0."""
HALF = 84.0
"""Pixels from there to the largest difference."""


def page(
    sweep: SweepData,
    effects: Sequence[Difference],
    points: Sequence[Difference],
    plots: Sequence[Plot],
    ranking: Ranking | None = None,
    claims: Claims | None = None,
    correlations: Correlations | None = None,
) -> str:
    """Return the page as text. Raises MissingExtraError without jinja2."""
    runs = sweep.runs
    drawn: dict[str, list[Plot]] = {"finals": [], "curves": [], "seconds": []}
    for plot in plots:
        if plot.section in drawn:
            drawn[plot.section].append(plot)
    # what the comparisons say comes first, what can be looked up comes last
    settings = [Fold(f"All settings of {run.title}", text=run.config) for run in runs if run.config][:1]
    sections = [
        *([Section("Ranking", ranking_note(ranking), _ranked(ranking))] if ranking else []),
        *_claimed(claims),
        Section("Runs", NOTE, _rows(map(run_cells, runs))),
        Section("What each setting changes", EFFECTS, _differences(effects)),
        Section("Every point against the first", POINTS, _differences(points)),
        *_correlated(correlations),
        Section("What the detectors said", VERDICTS, _rows(verdict_cells(runs))),
        Section("Final values", FINALS, pictures=drawn["finals"]),
        Section("Curves", CURVES_OF_MANY if many(runs) else CURVES, pictures=drawn["curves"]),
        Section("Time", TIMINGS_NOTE, _rows(map(timing_cells, runs))),
        Section("Seconds per step", SECONDS_NOTE, _rows(map(seconds_cells, runs)), drawn["seconds"]),
        Section("Sources that differ", SOURCES_NOTE, _rows(sweep.differing_sources())),
        Section("Settings that differ", "", _rows(sweep.differing())),
        Section("Reproduce", text="\n".join(sweep.commands()), folds=settings),
        transcripts(runs),
    ]
    axes = "; ".join(f"{axis}: {', '.join(values)}" for axis, values in sweep.axes.items())
    cards = [
        *(_best(ranking) if ranking else ()),
        *(map(_claim, claims.checked[:CARDS]) if claims else map(_finding, _shown(effects))),
        *_failed_regimes(runs),
        *_left_out(sweep),
    ]
    return render(sweep.heading, f"{len(runs)} runs – {axes}" if axes else f"{len(runs)} runs", cards, sections)


def _best(ranking: Ranking) -> Iterator[Card]:
    """Yield a card per value whose final success can be told from the baseline's, or one that there is none."""
    apart = [row for row in ranking.rows if row.estimates["success"].verdict in ("higher", "lower")]
    for row in apart[:CARDS]:
        estimate = row.estimates["success"]
        error = "" if estimate.se is None else f" ± {estimate.se:.3f}"
        what = f"{row.value} instead of {ranking.baseline}"
        yield Card(what, f"{estimate.difference:+.3f}{error}", f"final success: {estimate.verdict}", estimate.verdict)
    if not apart:
        text = f"no final success can be told from that of {ranking.baseline}"
        yield Card("told apart", f"0 of {ranking.compared}", text)


def _ranked(ranking: Ranking) -> list[Mapping[str, Cell]]:
    reach = max(
        (abs(e.difference) + 2 * (e.se or 0.0) for row in ranking.rows if (e := row.estimates["success"]).difference),
        default=0.0,
    )
    rows: list[Mapping[str, Cell]] = []
    for row, texts in zip(ranking.rows, _rows(ranking_cells(ranking)), strict=True):
        cells: dict[str, Cell] = {}
        for column, cell in texts.items():
            cells[column] = cell
            if column == "verdict":
                estimate = row.estimates["success"]
                cells["success ± 2 SE"] = _interval(estimate.difference, estimate.se, estimate.verdict, reach)
        rows.append(cells)
    return rows


def _shown(effects: Sequence[Difference]) -> Sequence[Difference]:
    """Return the comparisons that the page opens with: all if they are few, else those that show a difference."""
    if len(effects) <= CARDS:
        return effects
    return [effect for effect in effects if effect.verdict in ("higher", "lower")][:CARDS]


def _finding(effect: Difference) -> Card:
    what = f"{effect.axis}: {effect.value} instead of {effect.baseline}"
    figure, verdict = difference_cells(effect)["difference"], effect.verdict
    return Card(what, figure, f"validation success: {verdict}", _first_word(verdict))


def _failed_regimes(runs: Sequence[RunData]) -> Iterator[Card]:
    failed = [run for run in runs if run.failed_regime]
    if len(failed) <= CARDS:
        names = "; ".join(f"{run.title}: {run.status_text} after {run.steps} steps" for run in failed)
    else:
        counts = Counter(run.status_text for run in failed)
        names = ", ".join(f"{status}: {count} runs" for status, count in counts.items())
    if failed:
        yield Card("stopped early", f"{len(failed)} of {len(runs)} runs", names, "failed")


def _left_out(sweep: SweepData) -> Iterator[Card]:
    if damaged := sweep.left_out():
        names = "; ".join(damaged[:CARDS]) + (f"; and {len(damaged) - CARDS} more" if len(damaged) > CARDS else "")
        yield Card("in no comparison", f"{len(damaged)} damaged", f"{names}. {REPAIR}", "damaged")


def _claimed(claims: Claims | None) -> Iterator[Section]:
    if claims:
        rows = _rows(claim_table.claim_rows(claims))
        yield Section(claim_table.CLAIMS, claim_table.note(claims), rows)
        rows = _rows(claim_table.setting_rows(claims))
        yield Section(claim_table.SETTINGS, claim_table.settings_note(claims), rows)


def _claim(checked: Checked) -> Card:
    figure, verdict = claim_table.claim_cells(checked)["ours"], checked.verdict
    return Card(checked.claim.text, figure, f"{verdict}: {checked.why}", _first_word(verdict))


def _correlated(correlations: Correlations | None) -> Iterator[Section]:
    if correlations:
        first, *notes = correlation_table.notes(correlations)
        rows = _rows(map(correlation_table.cells, correlations.known))
        title, legend = correlation_table.title(correlations), correlation_table.legend(correlations)
        yield Section(title, first, rows, lines=notes, chart=correlation_table.bars(correlations), legend=legend)


def _first_word(text: str) -> str:
    """Return the class of a status or a verdict in the page: its first word."""
    return text.split()[0]


def _rows(rows: Iterable[dict[str, str]]) -> list[Mapping[str, Cell]]:
    """Return the rows of a table without its empty columns, and with statuses and verdicts in colour."""
    coloured: list[Mapping[str, Cell]] = []
    for row in without_empty(list(rows)):
        cells: dict[str, Cell] = dict(row)
        for column in cells.keys() & {"status", "verdict"}:
            cells[column] = Chip(row[column], _first_word(row[column]))
        coloured.append(cells)
    return coloured


def _differences(effects: Sequence[Difference]) -> list[Mapping[str, Cell]]:
    reach = max((abs(e.difference) + 2 * (e.se or 0.0) for e in effects if e.difference is not None), default=0.0)
    rows: list[Mapping[str, Cell]] = []
    for effect, row in zip(effects, _rows(map(difference_cells, effects)), strict=True):
        cells: dict[str, Cell] = {}
        for column, cell in row.items():
            cells[column] = cell
            if column == "difference":
                cells["± 2 SE"] = _interval(effect.difference, effect.se, effect.verdict, reach)
        rows.append(cells)
    return rows


def _interval(difference: float | None, se: float | None, verdict: str, reach: float) -> Cell:
    """Return the difference and two standard errors to either side, on a scale that all rows share."""
    if difference is None or not reach:
        return ""
    colour = {"higher": "#00714d", "lower": "#b34700"}.get(verdict, "#8a939c")
    pixels = HALF / reach
    return Interval(difference, MIDDLE + difference * pixels, 2 * (se or 0.0) * pixels, colour)
