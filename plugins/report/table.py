"""The tables of a report are made for a terminal, as CSV and as plain data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...core.runs.status import LONGEST_S
from .data import RunData
from .metrics import ENDS, SUCCESS
from .ranking import LEVEL, MEASURES, Estimate, Ranking
from .statistics import Difference

NOTE = (
    "Validation success: first → last, each with its standard error over validation tasks. Reward, reward std "
    "within groups, entropy (nats), kept groups and KL to the reference (nats): means of the last 5 steps."
)
REPAIR = "Run the sweep again: it repairs records from the checkpoint where it can."
SECONDS_NOTE = "Mean of a training step by stage; other includes validation."
STAGES = ("rollout", "score", "update", "other")
SOURCES_NOTE = (
    "Runs that are compared were made with different sources of a component or plugin that they use: a difference "
    "between them may be one of these."
)
TIMINGS_NOTE = (
    "Train: the steps of the run without validations and detectors. Eval: its validations, also before training. "
    "Collapse: its detectors. Total: inside its processes, start-up included. Wall: as the sweep measured it around "
    "them, or else from the first start to the end."
)
TIMINGS = {
    "train": "train",
    "eval": "eval",
    "collapse": "collapse",
    "first_turn": "first turn",
    "multi_turn": "multi turn",
    "total": "total",
    "wall": "wall",
}
"""Column of each timing of a run."""


def summary(run: RunData) -> dict[str, Any]:
    """Return everything that the tables show of a run, unrounded; ``None`` where it was not measured.

    ``point`` holds the values of the axes, which may be called like anything else here.
    """
    measured, seconds = run.measured(SUCCESS), run.seconds()
    first, last = (measured[0], measured[-1]) if measured else ((None,) * 3, (None,) * 3)
    row: dict[str, Any] = {
        "run": run.label,
        "title": run.title,
        "point": dict(run.point),
        "status": run.status,
        "steps": run.steps,
    }
    row |= {
        "success_first": first[1],
        "success_first_se": first[2],
        "success_last": last[1],
        "success_last_se": last[2],
    }
    row |= {column.lower().replace(" ", "_"): run.tail(metric) for column, metric in ENDS.items()}
    # the tables have no column for validation, which most steps do not have
    other = seconds.get("other", 0.0) + seconds.get("validation", 0.0) if seconds else None
    row |= {f"{stage}_s": other if stage == "other" else seconds.get(stage) for stage in STAGES}
    row |= {f"{timing}_s": run.timings.get(timing) for timing in TIMINGS}
    record = run.run_status.record
    return {
        **row,
        **{key: record.get(key) for key in ("gpu", "host")},
        "why": run.run_status.reason,
        "path": str(run.path),
    }


def run_cells(run: RunData) -> dict[str, str]:
    """Return one line of the table of runs: column -> text; see :data:`NOTE`."""
    row = summary(run)
    success = [
        number(row[f"success_{end}"]) + (f" ± {number(se)}" if (se := row[f"success_{end}_se"]) is not None else "")
        for end in ("first", "last")
    ]
    return {
        "run": run.title,
        "status": run.status_text,
        "steps": str(run.steps),
        "validation success": " → ".join(success) if row["success_last"] is not None else "–",
        **{column: number(row[column.lower().replace(" ", "_")]) for column in ENDS},
        "directory": "" if run.label == run.title else run.label,
        "why": run.run_status.reason,
    }


def seconds_cells(run: RunData) -> dict[str, str]:
    """Return one line of the table of times: column -> text."""
    row = summary(run)
    stages = {f"{stage} s": number(row[f"{stage}_s"], 2) for stage in STAGES}
    return {"run": run.title, **stages}


def timing_cells(run: RunData) -> dict[str, str]:
    """Return one line of the table of a run's times: column -> text."""
    cells = {column: duration(run.timings.get(timing)) for timing, column in TIMINGS.items()}
    return {"run": run.title, **cells, "gpu": str(run.run_status.record.get("gpu") or "–")}


def duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds as text."""
    if seconds is None or not abs(seconds) < LONGEST_S:
        return "–"
    return str(timedelta(seconds=round(seconds)))


def verdict_cells(runs: Sequence[RunData]) -> list[dict[str, str]]:
    """Return one line per verdict of the runs' detectors: column -> text."""
    return [
        {
            "run": run.title,
            "detector": str(verdict.get("detector", "")),
            "step": str(verdict.get("step", "")),
            "stopped it": "yes" if verdict.get("stop", True) else "no",
            "why": str(verdict.get("reason", "")),
            "evidence": ", ".join(f"{key} {_evidence(value)}" for key, value in verdict.get("evidence", {}).items()),
        }
        for run in runs
        for verdict in run.run_status.verdicts
    ]


def _evidence(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_evidence, value))}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def difference_cells(effect: Difference) -> dict[str, str]:
    """Return one line of the table of differences: column -> text."""
    error = "" if effect.se is None else f" ± {number(effect.se)}"
    return {
        "setting": f"{effect.axis}: {effect.value}" if effect.axis else effect.value,
        "against": effect.baseline,
        "difference": "–" if effect.difference is None else f"{effect.difference:+.3f}{error}",
        "verdict": effect.verdict,
        "pairs": str(effect.pairs),
        "standard error from": effect.se_from or "–",
        "left out": "; ".join(effect.left_out) or "–",
    }


def ranking_cells(ranking: Ranking) -> list[dict[str, str]]:
    """Return the lines of the table of a ranking: column -> text."""
    return [
        {
            "rank": str(row.estimates["success"].rank or "–"),
            ranking.axis: row.value,
            "verdict": row.estimates["success"].verdict,
            **{measure.title: _estimate(row.estimates[measure.name]) for measure in MEASURES},
            "pairs": str(row.pairs),
            "left out": "; ".join(row.left_out) or "–",
        }
        for row in ranking.rows
    ]


def _estimate(estimate: Estimate) -> str:
    """Spell an estimate: the mean, what it changes, and a mark where that can be told from nothing."""
    if estimate.mean is None or estimate.difference is None:
        return "–"
    if estimate.verdict == "baseline":
        return number(estimate.mean)
    error = "" if estimate.se is None else f" ± {number(estimate.se)}"
    mark = " *" if estimate.verdict in ("higher", "lower") else ""
    return f"{number(estimate.mean)} ({estimate.difference:+.3f}{error}){mark}"


def ranking_note(ranking: Ranking) -> str:
    """Return what to know before reading a ranking, and whether anything can be told apart."""
    apart = [
        f"{sum(row.estimates[measure.name].verdict in ('higher', 'lower') for row in ranking.rows)} in {measure.title}"
        for measure in MEASURES
    ]
    return (
        f"{ranking.compared} values of {ranking.axis} against {ranking.baseline}, run by run at the same seed: mean "
        "(difference ± standard error over seeds, or over validation tasks where that is larger). * marks a difference "
        f"whose p-value is at most {LEVEL} after Holm's correction for the number of values, by Student's t over "
        f"seeds. Told apart from {ranking.baseline}: {', '.join(apart)}; the others cannot be told apart. Entropy and "
        "mutual information in nats, the area divided by the steps, seconds without validation and detectors."
    )


def without_empty(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows without the columns in which no row has anything."""
    used = {column: None for row in rows for column, text in row.items() if text not in ("", "–")}
    return [{column: text for column, text in row.items() if column in used} for row in rows]


def print_table(title: str, rows: Sequence[dict[str, str]], console: Console) -> None:
    rows = without_empty(rows)
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in rows[0]:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    console.print(table)


def write_csv(path: Path, runs: Sequence[RunData]) -> None:
    """Write one line per run with its final values; an empty field was not measured."""
    rows = []
    for run in runs:
        row = summary(run)
        place = {f"point.{axis}": value for axis, value in row.pop("point").items()}
        rows.append({"run": row.pop("run"), **place, **row})
    columns = dict.fromkeys(column for row in rows for column in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)
