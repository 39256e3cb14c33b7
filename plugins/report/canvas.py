"""All plots share their size, type, colours and marks, and the way to a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .data import RunData

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6B6B6B")
"""Okabe and Ito's palette, which people tell apart however they see colour; without yellow and black."""
LINES = ("-", "--", ":", "-.")
MARKS = ("X", "P", "*", "D")
"""Shapes of marks, one per detector; a cross first."""
INK = "#24292f"
SOFT = "#5d6772"
GRID = "#e4e7eb"
LEGEND = 12
"""Entries of a legend at most; of more values, evenly spaced ones are named."""


def figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of that many inches, with one panel."""
    drawn = Figure(figsize=(width, height), dpi=160, layout="constrained", facecolor="white")
    return drawn, _plain(drawn.subplots())


def panels(count: int, handles: Sequence[Any]) -> tuple[Figure, list[Axes]]:
    """Return an empty figure with so many panels, at most four in a row, over room for a legend of ``handles``.

    Its margins are fixed: to measure every label of every panel takes longer than to draw them.
    """
    columns = min(4, count)
    rows = -(-count // columns)
    width = max(10.5, 3.5 * columns)
    below = 0.55 + 0.16 * -(-len(handles) // _columns(width, handles))
    height = 2.5 * rows + 0.2 + below
    drawn = Figure(figsize=(width, height), dpi=110, facecolor="white")
    grid = drawn.subplots(rows, columns, squeeze=False)
    drawn.subplots_adjust(0.62 / width, below / height, 1 - 0.1 / width, 1 - 0.62 / height, 0.25, 0.4)
    for axes in grid.flat[count:]:
        axes.remove()
    return drawn, [_plain(axes) for axes in grid.flat[:count]]


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#9aa3ad")
    axes.tick_params(labelsize=8, length=0, colors=INK)
    axes.xaxis.label.set(size=8, color=INK)
    axes.yaxis.label.set(size=8, color=INK)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    return axes


def title(axes: Axes, text: str, note: str = "") -> None:
    """Write ``text`` above the panel at the left, and in small ``note``, which says what is drawn."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=INK)
    if note:
        axes.set_title(note, loc="right", fontsize=7.5, color=SOFT)


def distinct(count: int) -> list[tuple[str, str]]:
    """Return colour and line of settings without an order: other colours first, other lines when they run out."""
    return list(islice(cycle((colour, line) for line in LINES for colour in COLOURS), count))


def scale(values: Sequence[str]) -> list[Any]:
    """Return a colour per value of an axis: from dark to light for numbers and for many values, else far apart."""
    if len(values) <= len(COLOURS) and (len(values) < 3 or None in map(as_number, values)):
        return list(COLOURS[: len(values)])
    colours = matplotlib.colormaps["viridis"]
    return [colours(0.88 * at / (len(values) - 1)) for at in range(len(values))]


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def in_order(values: Sequence[str]) -> list[str]:
    """Sort numbers by size, whatever else in the order in which it is given."""
    numbers = {value: as_number(value) for value in values}
    if None in numbers.values():
        return list(values)
    return sorted(values, key=lambda value: numbers[value] or 0.0)


def marks(runs: Sequence[RunData]) -> dict[str, str]:
    """Return the mark of each detector that stopped one of the runs."""
    names = dict.fromkeys(run.run_status.detector for run in runs if run.failed_regime)
    return dict(zip(names, cycle(MARKS), strict=False))


def mark_handles(runs: Sequence[RunData], shapes: Mapping[str, str]) -> list[Line2D]:
    """Return entries of the legend: each detector with how many runs it stopped."""
    stopped = [run.run_status.detector for run in runs if run.failed_regime]
    return [
        Line2D(
            [], [], ls="", marker=shape, color=INK, mec="white", ms=8, label=f"{name} ({stopped.count(name)} stopped)"
        )
        for name, shape in shapes.items()
    ]


def thinned(handles: Sequence[Any]) -> list[Any]:
    """Return at most :data:`LEGEND` of them, evenly spaced, the first and the last among them."""
    if len(handles) <= LEGEND:
        return list(handles)
    return [handles[round(at * (len(handles) - 1) / (LEGEND - 1))] for at in range(LEGEND)]


def png(drawn: Figure, handles: Sequence[Any]) -> bytes:
    """Return the figure as a PNG, with a legend of ``handles`` below its panels."""
    if handles:
        columns = _columns(drawn.get_figwidth(), handles)
        where: Any = "outside lower left" if drawn.get_layout_engine() else "lower left"
        drawn.legend(handles=list(handles), loc=where, ncols=columns, fontsize=7.5, frameon=False)
    stream = io.BytesIO()
    drawn.savefig(stream, format="png")
    return stream.getvalue()


def _columns(width: float, handles: Sequence[Any]) -> int:
    """Say how many columns of the legend fit into so many inches."""
    longest = max(len(str(handle.get_label())) for handle in handles)
    return max(1, int(14 * width / (longest + 6)))
