"""One HTML page that holds the whole report: no scripts, nothing to load."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from .data import RunData, SweepData
from .plots import Plot, many
from .statistics import Difference
from .table import (
    NOTE,
    REPAIR,
    SECONDS_NOTE,
    SOURCES_NOTE,
    TIMINGS_NOTE,
    difference_cells,
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
"""Findings at the top; all are in the table."""
TEXT = {
    "run",
    "directory",
    "source",
    "sha256",
    "runs",
    "outcome",
    "why",
    "detector",
    "stopped it",
    "evidence",
    "gpu",
    "setting",
    "against",
    "± 2 SE",
    "verdict",
    "standard error from",
    "left out",
}
"""Columns of words; all others are numbers and are aligned at the right."""


def page(sweep: SweepData, effects: Sequence[Difference], points: Sequence[Difference], plots: Sequence[Plot]) -> str:
    """The page as text."""
    sections = [
        _section("Runs", NOTE, _table([run_cells(run) for run in sweep.runs])),
        _section("What each setting changes", EFFECTS, _differences(effects)),
        _section("Every point against the first", POINTS, _differences(points)),
        _section("What the detectors said", VERDICTS, _table(verdict_cells(sweep.runs))),
        _section("Final values", FINALS, _plots(plots, "finals")),
        _section("Curves", CURVES_OF_MANY if many(sweep.runs) else CURVES, _plots(plots, "curves")),
        _section("Time", TIMINGS_NOTE, _table([timing_cells(run) for run in sweep.runs])),
        _section(
            "Seconds per step",
            SECONDS_NOTE,
            _table([seconds_cells(run) for run in sweep.runs]) + _plots(plots, "seconds"),
        ),
        _section("Sources that differ", SOURCES_NOTE, _table(sweep.differing_sources())),
        _section("Settings that differ", "", _table(sweep.differing())),
        _section("Reproduce", "", _reproduce(sweep)),
        _section("What the policies wrote", *transcripts(sweep.runs)),
    ]
    axes = "; ".join(f"{axis}: {', '.join(values)}" for axis, values in sweep.axes.items())
    return Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"Sweep {sweep.name}"),
        subtitle=escape(f"{len(sweep.runs)} runs – {axes}"),
        findings="".join(map(_finding, _cards(effects))) + _failed_regimes(sweep.runs) + _left_out(sweep),
        sections="\n".join(filter(None, sections)),
    )


def _section(title: str, note: str, body: str) -> str:
    if not body:
        return ""
    return f"<section><h2>{escape(title)}</h2><p class='soft'>{escape(note)}</p>{body}</section>"


def _finding(effect: Difference) -> str:
    what = f"{effect.axis}: {effect.value} instead of {effect.baseline}"
    return _card(effect.verdict, what, difference_cells(effect)["difference"], f"validation success: {effect.verdict}")


def _failed_regimes(runs: Sequence[RunData]) -> str:
    failed = [run for run in runs if run.failed_regime]
    if not failed:
        return ""
    if len(failed) <= CARDS:
        names = "; ".join(f"{run.title}: {run.outcome} after {run.steps} steps" for run in failed)
    else:
        names = ", ".join(f"{outcome}: {n} runs" for outcome, n in Counter(run.outcome for run in failed).items())
    return _card("failed regime", "stopped early", f"{len(failed)} of {len(runs)} runs", names)


def _left_out(sweep: SweepData) -> str:
    damaged = sweep.left_out()
    if not damaged:
        return ""
    names = "; ".join(damaged[:CARDS]) + (f"; and {len(damaged) - CARDS} more" if len(damaged) > CARDS else "")
    return _card("damaged", "in no comparison", f"{len(damaged)} damaged", f"{names}. {REPAIR}")


def _cards(effects: Sequence[Difference]) -> list[Difference]:
    """What the page opens with: all of a few comparisons, of many those that show a difference."""
    if len(effects) <= CARDS:
        return list(effects)
    return [effect for effect in effects if effect.verdict in ("higher", "lower")][:CARDS]


def _card(outcome: str, what: str, figure: str, text: str) -> str:
    inside = f"<span class='soft'>{escape(what)}</span><b>{escape(figure)}</b>{escape(text)}"
    return f"<li class='{_css(outcome)}'>{inside}</li>"


def _css(text: str) -> str:
    """The class of an outcome or verdict: its first word."""
    return escape(text.split()[0])


class _Html(str):
    """Text that is HTML already."""


def _table(rows: Sequence[dict[str, str]]) -> str:
    rows = without_empty(rows)
    if not rows:
        return ""
    head = "".join(f"<th{_class(column)}>{escape(column)}</th>" for column in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td{_class(column)}>{_cell(column, text)}</td>" for column, text in row.items()) + "</tr>"
        for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _class(column: str) -> str:
    if column in ("left out", "why", "evidence", "runs"):
        return " class='wrap'"
    return "" if column in TEXT or "." in column else " class='num'"


def _cell(column: str, text: str) -> str:
    if isinstance(text, _Html):
        return text
    if column in ("outcome", "verdict"):
        return f"<span class='chip {_css(text)}'>{escape(text)}</span>"
    return escape(text)


def _differences(effects: Sequence[Difference]) -> str:
    reach = max((abs(e.difference) + 2 * (e.se or 0.0) for e in effects if e.difference is not None), default=0.0)
    rows = []
    for effect in effects:
        shown = list(difference_cells(effect).items())
        rows.append(dict([*shown[:3], ("± 2 SE", _interval(effect, reach)), *shown[3:]]))
    return _table(rows)


def _interval(effect: Difference, reach: float) -> _Html:
    """The difference and two standard errors either way, on a scale that all rows share."""
    if effect.difference is None or not reach:
        return _Html()
    middle, half = 90.0, 84.0
    x, spread = middle + half * effect.difference / reach, half * 2 * (effect.se or 0.0) / reach
    colour = {"higher": "#00714d", "lower": "#b34700"}.get(effect.verdict, "#8a939c")
    return _Html(
        f"<svg width='180' height='18' role='img' aria-label='{effect.difference:+.3f}'>"
        f"<line x1='{middle}' x2='{middle}' y1='0' y2='18' stroke='#9aa3ad' stroke-dasharray='2 2'/>"
        f"<line x1='{x - spread:.1f}' x2='{x + spread:.1f}' y1='9' y2='9' stroke='{colour}' stroke-width='2'/>"
        f"<circle cx='{x:.1f}' cy='9' r='4' fill='{colour}'/></svg>"
    )


def _plots(plots: Sequence[Plot], section: str) -> str:
    figures = "".join(_figure(plot) for plot in plots if plot.section == section)
    return f"<div class='plots'>{figures}</div>" if figures else ""


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    note = f"<figcaption>not logged by {escape(', '.join(plot.without))}</figcaption>" if plot.without else ""
    wide = " class='wide'" if plot.wide else ""
    return f"<figure{wide}><img alt='{escape(plot.title)}' src='data:image/png;base64,{data}'>{note}</figure>"


def _reproduce(sweep: SweepData) -> str:
    commands = "\n".join(sweep.commands())
    resolved = next((run for run in sweep.runs if run.config), None)
    settings = ""
    if resolved:
        settings = (
            f"<details><summary>All settings of {escape(resolved.title)}</summary>"
            f"<pre>{escape(resolved.config)}</pre></details>"
        )
    return f"<pre>{escape(commands)}</pre>{settings}"
