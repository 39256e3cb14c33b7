"""Several runs are put together: a metric as one array, and its mean with a band."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from .data import RunData
from .metrics import TAIL

Floats = NDArray[np.float64]


@attrs.frozen(eq=False)
class Line:
    """The mean of a metric over some runs, at every step that any of them logged, and a band around it."""

    steps: NDArray[np.int64]
    mean: Floats
    low: Floats
    high: Floats


Spread = Callable[[Floats], tuple[Floats, Floats]]
"""The values of a table -> the lower and the upper edge of a band [T]."""


Table = tuple[NDArray[np.int64], Floats]
"""Steps [T] and the values of runs at them [R, T], NaN where a run logged none."""


def values(runs: Sequence[RunData], metric: str) -> Table:
    """``metric`` of the runs, at every step at which any of them logged it."""
    series = [run.series(metric) for run in runs]
    steps = np.array(sorted({step for each in series for step, _ in each}), dtype=np.int64)
    table = np.full((len(runs), len(steps)), np.nan)
    for row, each in zip(table, series, strict=True):
        if each:
            at, logged = zip(*each, strict=True)
            row[np.searchsorted(steps, at)] = logged
    return steps, table


def line(steps: NDArray[np.int64], table: Floats, spread: Spread, smooth: bool) -> Line:
    """Return the mean over the rows of ``table`` at each step, over those rows that have a value there."""
    logged = ~np.isnan(table).all(axis=0)
    steps, table = steps[logged], table[:, logged]
    if not len(steps):
        return Line(steps, *np.empty((3, 0)))
    edges = (np.nanmean(table, axis=0), *spread(table))
    return Line(steps, *(running_mean(edge) if smooth else edge for edge in edges))


def extremes(table: Floats) -> tuple[Floats, Floats]:
    """Return minimum and maximum over the runs."""
    return np.nanmin(table, axis=0), np.nanmax(table, axis=0)


def standard_error(table: Floats) -> tuple[Floats, Floats]:
    """One standard error of the mean over the runs either way (standard deviation, ddof 1); none of a single run."""
    count = (~np.isnan(table)).sum(axis=0)
    mean = np.nanmean(table, axis=0)
    squares = np.nansum((table - mean) ** 2, axis=0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / count)
    return mean - error, mean + error


def running_mean(series: Floats) -> Floats:
    """At each position the mean of the last :data:`.metrics.TAIL` values, of fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(series)])
    ends = np.arange(1, len(series) + 1)
    starts = np.maximum(0, ends - TAIL)
    return (sums[ends] - sums[starts]) / (ends - starts)


def by_setting(runs: Sequence[RunData]) -> dict[str, list[RunData]]:
    """Runs that differ in their seed alone, under the name of their setting; without seeds, each under its label."""
    settings: dict[str, list[RunData]] = {}
    for run in runs:
        settings.setdefault(run.setting if run.seed else run.title, []).append(run)
    return settings
