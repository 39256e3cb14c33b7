"""Correlations with what follows are shown as a table, as sentences, as CSV and as plain data."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Console

from .correlation import KINDS, Correlation, Correlations
from .correlation_estimate import LEVEL, Estimate
from .metrics import ENTROPY, INFORMATION, SUCCESS
from .page import Bar
from .table import number, print_table

MARK = "°"
"""What stands after metrics that are made of success or rewards."""
CHARTED = 24
"""Metrics that a chart shows at most, beside those that diagnose a collapse."""
NAMED = 12
"""Runs that a note names at most; of more it says how many there are."""


def title(correlations: Correlations) -> str:
    return f"What goes before {correlations.target.metric}"


def notes(correlations: Correlations) -> list[str]:
    """Return what a reader has to know of the table, and of how much chance alone would show."""
    target, lines = correlations.target, []
    later = "the next measurement" if target.lag == 1 else f"the first measurement {target.lag} or more steps later"
    lines.append(
        f"Spearman's rank correlation of each metric with {target.metric} at {later}. Within runs: over the course of "
        "each run, averaged over the runs. At once: the same with the measurement at the same step. At equal step: "
        "with the later one, and the step held fixed, beyond the trend of the run. Over runs: of the last pair of each "
        "run that used its budget. Each with one standard error, and within runs the 95 % interval; runs are the "
        "independent units, never steps. Higher: what follows is higher where the metric is higher. A correlation is "
        "no cause."
    )
    if correlations.tested:
        lines.append(
            f"{correlations.told} of {correlations.tested} metrics can be told from none within runs: p (Holm), which "
            f"is corrected for all metrics, is at most {LEVEL}. {correlations.above} are above 2 standard errors; up "
            f"to {correlations.by_chance:.1f} would be by chance."
        )
    elif correlations.runs == 1:
        lines.append("One run: no error. Pairs of one run depend on each other, so that no p-value follows from them.")
    if target.metric == SUCCESS:
        lines.append(
            "Asked before any result, so that p is corrected for these two alone: "
            f"{'; '.join(_asked(name, row) for name, row in correlations.diagnosis)}."
        )
    if correlations.environments > 1:
        lines.append(
            f"The runs have {correlations.environments} environments. Over runs they are ranked within each, so that "
            "a difference between tasks is no correlation."
        )
    if any(row.of_outcomes for row in correlations.known):
        lines.append(f"{MARK} marks metrics that are made of success or rewards themselves: no wonder if they follow.")
    for why, names in correlations.without.items():
        lines.append(f"Without a rank correlation ({why}): {', '.join(names)}.")
    if correlations.uncompared:
        lines.append(f"Not compared: {', '.join(correlations.uncompared)}.")
    if correlations.left_out_over_runs:
        lines.append(f"Not among the final pairs: {_left_out(correlations.left_out_over_runs)}.")
    return lines


def _asked(name: str, row: Correlation | None) -> str:
    """Say of a metric that diagnoses a collapse how it goes with success, later and at once."""
    if row is None:
        return f"{name} was not logged"
    said = [
        f"{when} {_estimate(each)} ({each.verdict}, p {_p(each)})" if each.rho is not None else f"{when} unknown"
        for when, each in (("later", row.within), ("at once", row.at_once))
    ]
    return f"{name} {', '.join(said)}"


def _left_out(runs: Sequence[tuple[str, str]]) -> str:
    """Name the runs if they are few, else count them by the reason."""
    if len(runs) <= NAMED:
        return "; ".join(f"{title}: {why}" for title, why in runs)
    return "; ".join(f"{why}: {count} run{'s' * (count > 1)}" for why, count in Counter(why for _, why in runs).items())


def cells(row: Correlation) -> dict[str, str]:
    """Return one line of the table: column -> text."""
    return {
        "metric": named(row),
        "within runs": _estimate(row.within),
        "95 %": _interval(row.within),
        "verdict": row.within.verdict,
        "p (Holm)": _p(row.within),
        "runs": str(row.within.runs),
        "at once": _estimate(row.at_once),
        "p (Holm) at once": _p(row.at_once),
        "at equal step": _estimate(row.at_equal_step),
        "p (Holm) at equal step": _p(row.at_equal_step),
        "over runs": _estimate(row.over_runs),
        "p (Holm) over runs": _p(row.over_runs),
        "verdict over runs": row.over_runs.verdict,
        "final pairs": str(row.over_runs.runs or "–"),
        "left out": "; ".join(f"{count} {why}" for why, count in row.left_out.items()) or "–",
    }


def bars(correlations: Correlations) -> list[Bar]:
    """Return the lines of a chart: the strongest metrics, then those that diagnose a collapse, wherever they stand."""
    known = [row for row in correlations.known if row.within.rho is not None]
    watched = [row for row in known[CHARTED:] if row.metric in (INFORMATION, ENTROPY)]
    return [_bar(row) for row in (*known[:CHARTED], *watched)]


def legend(correlations: Correlations) -> str:
    """Return what the chart shows."""
    rows = [row for row in correlations.known if row.within.rho is not None]
    left = f" The {CHARTED} strongest of {len(rows)}; the table has all." if len(rows) > CHARTED else ""
    return (
        "Dot: with what follows, mean of the correlations within runs. Bar: its 95 % interval over runs. Ring: with "
        f"the measurement at the same step. In colour: told from none, p (Holm) at most {LEVEL}.{left}"
    )


def _bar(row: Correlation) -> Bar:
    within = row.within
    outcome = within.verdict if within.verdict in ("higher", "lower") else ""
    runs = f"{within.runs} run{'s' * (within.runs > 1)}"
    return Bar(named(row), within.rho, f"{within.rho:+.2f}, {runs}", within.low, within.high, row.at_once.rho, outcome)


def named(row: Correlation) -> str:
    """Return the name of the metric, with a mark if it is made of success or rewards."""
    return f"{row.metric}\N{NO-BREAK SPACE}{MARK}" if row.of_outcomes else row.metric


def _p(estimate: Estimate) -> str:
    p = estimate.p_holm
    return "<0.001" if p is not None and p < 0.001 else number(p)


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return "–"
    return f"{estimate.low:+.2f} to {estimate.high:+.2f}"


def _estimate(estimate: Estimate) -> str:
    if estimate.rho is None:
        return "–"
    return f"{estimate.rho:+.3f}" + ("" if estimate.se is None else f" ± {number(estimate.se)}")


def print_correlations(correlations: Correlations, console: Console, many: int) -> None:
    """Print the strongest correlations, at most ``many``, and the notes."""
    known = correlations.known
    if known:
        print_table(f"\n{title(correlations)}", [cells(row) for row in known[:many]], console)
    else:
        console.print(f"\n{title(correlations)}: no metric has a rank correlation", highlight=False)
    if len(known) > many:
        console.print(f"{len(known) - many} more are in the page", style="dim", highlight=False)
    for line in notes(correlations):
        console.print(line, style="dim", highlight=False)


def to_dict(correlations: Correlations) -> dict[str, Any]:
    """Return the numbers, unrounded, as plain data."""
    return {
        "target": correlations.target.metric,
        "lag": correlations.target.lag,
        "runs": correlations.runs,
        "tested": correlations.tested,
        "told_from_none": correlations.told,
        "environments": correlations.environments,
        "uncompared": list(correlations.uncompared),
        "above_2_se": correlations.above,
        "above_2_se_by_chance": correlations.by_chance,
        "left_out_over_runs": [f"{title}: {why}" for title, why in correlations.left_out_over_runs],
        "metrics": [_row(row) for row in correlations.rows],
        "diagnosis": {name: row and _row(row) for name, row in correlations.diagnosis},
    }


def _row(row: Correlation) -> dict[str, Any]:
    estimates = {
        kind: {**attrs.asdict(estimate), "verdict": estimate.verdict}
        for kind in KINDS
        for estimate in [getattr(row, kind)]
    }
    return {"metric": row.metric, "of_outcomes": row.of_outcomes, **estimates, "left_out": dict(row.left_out)}


def write_csv(path: Path, correlations: Correlations) -> None:
    """Write one line per metric; an empty field is not known."""
    rows = []
    for row in map(_row, correlations.rows):
        estimates = {f"{kind}_{field}": value for kind in KINDS for field, value in row[kind].items()}
        left_out = "; ".join(f"{count} {why}" for why, count in row["left_out"].items())
        rows.append({"metric": row["metric"], "of_outcomes": row["of_outcomes"], **estimates, "left_out": left_out})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["metric"])
        writer.writeheader()
        writer.writerows(rows)
