"""Plots show where runs end, by the values of an axis, and where their time goes."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from .canvas import GRID, INK, figure, in_order, mark_handles, marks, png, scale, title
from .data import RunData
from .metrics import SUCCESS

STAGE_COLOURS = {
    "rollout": "#0072B2",
    "score": "#56B4E9",
    "update": "#E69F00",
    "validation": "#009E73",
    "other": "#B9BFC6",
}
FAILED = "#b34700"
NAMED = 50
"""Values named below a plot at most; of more, every second, third, ..."""


def by_axis(axis: str, order: Sequence[str], runs: Sequence[RunData]) -> bytes:
    """Draw the last validation success by value of an axis: runs as points, their mean with its standard error.

    Runs that a detector stopped are marked at their last value and are in no mean; runs that have not ended are absent.
    """
    order = in_order(order)
    drawn, axes = figure(min(20.0, max(6.2, 0.45 * len(order))), 3.5)
    title(axes, f"Final success by {axis}", "points: runs; bars: mean ± 1 standard error")
    measured = [run for run in runs if run.series(SUCCESS)]
    shapes = marks(measured)
    for at, (value, colour) in enumerate(zip(order, scale(order), strict=True)):
        here = [run for run in measured if run.point.get(axis) == value]
        _value(axes, at, [run for run in here if run.status == "success"], colour)
        # beside the others, and no part of their mean: a setting that failed has no final value
        stopped = [run for run in here if run.failed_regime]
        places = _spread(at + 0.25, len(stopped))
        for detector, shape in shapes.items():
            marked = [
                (x, _last(run)) for x, run in zip(places, stopped, strict=True) if run.run_status.detector == detector
            ]
            if marked:
                x, y = zip(*marked, strict=True)
                axes.scatter(x, y, s=30, color=FAILED, marker=shape, alpha=0.8, linewidths=0, zorder=4)
    named = range(0, len(order), 1 + len(order) // NAMED)
    axes.set_xticks(named, [textwrap.fill(order[at], 18) for at in named])
    if sum(map(len, order)) > 60:
        axes.tick_params(axis="x", labelrotation=90)
    axes.set_xlim(-0.6, len(order) - 0.4)
    axes.set_xlabel(axis)
    axes.set_ylabel("share of episodes")
    return png(drawn, mark_handles(measured, shapes))


def _value(axes: Axes, at: int, runs: Sequence[RunData], colour: Any) -> None:
    """Draw the runs of one value that used their budget, and their mean."""
    if not runs:
        return
    last = [_last(run) for run in runs]
    if len(runs) > 1:
        axes.plot(_spread(at - 0.2, len(runs)), last, "o", color=colour, alpha=0.4, markersize=3.5, mew=0)
    axes.errorbar(
        at, statistics.fmean(last), _standard_error(runs), fmt="o", color=colour, mec=INK, mew=0.8, capsize=4, zorder=3
    )


def _standard_error(runs: Sequence[RunData]) -> float:
    """Return the standard error of the mean: over runs or over validation tasks, the larger one.

    A few seeds may agree by chance.
    """
    tasks = math.hypot(*(run.measured(SUCCESS)[-1][2] or 0.0 for run in runs)) / len(runs)
    if len(runs) < 2:
        return tasks
    return max(tasks, statistics.stdev(map(_last, runs)) / math.sqrt(len(runs)))


def _last(run: RunData) -> float:
    return run.series(SUCCESS)[-1][1]


def _spread(centre: float, count: int) -> list[float]:
    """Return ``count`` positions around ``centre``, evenly, so that runs of one value do not hide each other."""
    return [centre + 0.14 * (2 * (at + 0.5) / count - 1) for at in range(count)]


def seconds(runs: Sequence[RunData]) -> bytes:
    """Draw the seconds of a step by stage, a bar per run."""
    drawn, axes = figure(6.2, 1.6 + 0.32 * len(runs))
    title(axes, "Seconds per step")
    spent = [run.seconds() for run in runs]
    left = [0.0] * len(runs)
    for stage, colour in STAGE_COLOURS.items():
        widths = [each[stage] for each in spent]
        axes.barh([run.title for run in runs], widths, 0.62, left, color=colour, label=stage, edgecolor="white")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    return png(drawn, axes.get_legend_handles_labels()[0])
