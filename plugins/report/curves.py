"""Curves show metrics over the steps: a line per setting if they are few, else a line per value of each axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .aggregate import Floats, Line, Table, by_setting, extremes, line, running_mean, standard_error, values
from .canvas import INK, SOFT, distinct, figure, in_order, mark_handles, marks, panels, png, scale, thinned, title
from .data import RunData
from .metrics import TAIL, Curve

SEEDS_NOTE = "mean over seeds, band: lowest to highest"
VALUES_NOTE = "lines: means over the runs of a value; bands: ± 1 standard error over these runs; marks: stopped runs"


def by_settings(curve: Curve, runs: Sequence[RunData]) -> bytes:
    """Return a figure of one metric: a line per run or, where seeds are swept, the mean over them with a band."""
    drawn, axes = figure(6.2, 3.5)
    settings, shapes = by_setting(runs), marks(runs)
    title(axes, curve.title, SEEDS_NOTE if any(len(same) > 1 for same in settings.values()) else "")
    handles: list[Any] = []
    for (name, same), (colour, style) in zip(settings.items(), distinct(len(settings)), strict=True):
        same = [run for run in same if run.series(curve.metric)]
        if not same:
            continue
        if len(same) == 1:
            _draw_run(axes, curve, same[0], colour, style)
        else:
            _draw_seeds(axes, curve, same, colour, style)
        _marks(axes, curve, same, [colour] * len(same), shapes)
        handles.append(Line2D([], [], color=colour, ls=style, lw=1.8, label=_stops(name, same)))
    _steps(axes, curve)
    return png(drawn, handles + mark_handles([run for run in runs if run.series(curve.metric)], shapes))


def by_values(axis: str, order: Sequence[str], tables: Mapping[Curve, Table], runs: Sequence[RunData]) -> bytes:
    """Return a figure of one axis: a panel per metric, in it a line per value, the mean over all runs with this value.

    Runs that a detector stopped are in no mean: their last values are marked.

    Args:
        tables: of each metric the values of the runs that no detector stopped, in their order.
    """
    order, shapes = in_order(order), marks(runs)
    colours = dict(zip(order, scale(order), strict=True))
    stopped = [run for run in runs if run.failed_regime and axis in run.point]
    going = [run for run in runs if not run.failed_regime]
    handles = []
    for value, colour in colours.items():
        all_runs = [run for run in runs if run.point.get(axis) == value]
        handles.append(Line2D([], [], color=colour, lw=1.8, label=_stops(value, all_runs)))
    handles = thinned(handles) + mark_handles(stopped, shapes)
    drawn, grid = panels(len(tables), handles)
    for axes, (curve, (steps, table)) in zip(grid, tables.items(), strict=True):
        title(axes, curve.title)
        for value, colour in colours.items():
            rows_of_value = [at for at, run in enumerate(going) if run.point.get(axis) == value]
            mean = line(steps, table[rows_of_value], standard_error, curve.smooth)
            _band(axes, mean, colour, "-", 1.5)
        _marks(axes, curve, stopped, [colours[run.point[axis]] for run in stopped], shapes, size=26)
        _steps(axes, curve)
    drawn.text(0.012, 0.985, f"By {axis}", ha="left", va="top", fontsize=13, fontweight="bold", color=INK)
    drawn.text(0.99, 0.985, VALUES_NOTE, ha="right", va="top", fontsize=8, color=SOFT)
    return png(drawn, handles)


def _draw_run(axes: Axes, curve: Curve, run: RunData, colour: Any, style: str) -> None:
    """Draw one run: bold, its single steps faint behind it, or with the standard errors of its validations."""
    steps, logged, errors = zip(*run.measured(curve.metric), strict=True)
    shown: Sequence[float] | Floats = logged
    if _smooths(curve, len(logged)):
        axes.plot(steps, logged, color=colour, alpha=0.22, linewidth=0.8)
        shown = running_mean(np.array(logged))
    elif any(error is not None for error in errors):
        bars = [error or 0.0 for error in errors]
        axes.errorbar(steps, logged, bars, fmt="none", ecolor=colour, alpha=0.5, elinewidth=1)
    axes.plot(steps, shown, style, color=colour, lw=1.8, marker="" if curve.smooth else "o", markersize=3.5)


def _draw_seeds(axes: Axes, curve: Curve, same: Sequence[RunData], colour: Any, style: str) -> None:
    """Draw the mean over the seeds that no detector stopped, and those that one did stop as thin lines."""
    steps, table = values(same, curve.metric)
    going = np.array([not run.failed_regime for run in same])
    smooth = _smooths(curve, len(steps))
    _band(axes, line(steps, table[going], extremes, smooth), colour, style, 1.8)
    for row in table[~going]:
        alone = line(steps, row[None], extremes, smooth)
        axes.plot(alone.steps, alone.mean, style, color=colour, linewidth=0.8, alpha=0.7)


def _band(axes: Axes, drawn: Line, colour: Any, style: str, width: float) -> None:
    if len(drawn.steps):
        axes.fill_between(drawn.steps, drawn.low, drawn.high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(drawn.steps, drawn.mean, style, color=colour, linewidth=width)


def _marks(
    axes: Axes, curve: Curve, runs: Sequence[RunData], colours: Sequence[Any], shapes: dict[str, str], size: float = 70
) -> None:
    """Mark where detectors stopped runs: the last value that is shown, in the colour of its line."""
    for detector, shape in shapes.items():
        ends = [
            (series[-1][0], _end(curve, run), colour)
            for run, colour in zip(runs, colours, strict=True)
            if run.run_status.detector == detector and (series := run.series(curve.metric))
        ]
        if ends:
            steps, values_there, line_colours = zip(*ends, strict=True)
            axes.scatter(
                steps, values_there, s=size, c=line_colours, marker=shape, edgecolors="white", linewidths=0.4, zorder=5
            )


def _end(curve: Curve, run: RunData) -> float | None:
    series = run.series(curve.metric)
    return run.tail(curve.metric) if _smooths(curve, len(series)) else series[-1][1]


def _smooths(curve: Curve, steps: int) -> bool:
    return curve.smooth and steps > 2 * TAIL


def _stops(name: str, runs: Sequence[RunData]) -> str:
    """Return the entry of the legend: how many runs of several were stopped, or when the only one was."""
    stopped = [run for run in runs if run.failed_regime]
    if not stopped:
        return name
    if len(runs) == 1:
        return f"{name} (stopped at {runs[0].steps})"
    return f"{name} ({len(stopped)} of {len(runs)} stopped)"


def _steps(axes: Axes, curve: Curve) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("step")
    axes.set_ylabel(curve.unit)
    axes.margins(x=0.02)
