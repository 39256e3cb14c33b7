"""A report has these plots, each with a name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import attrs

from .data import SEED_AXIS, RunData, SweepData
from .metrics import CURVES, SUCCESS

FEW = 10
"""Settings at most of which each has a line of its own; more are shown by the values of their axes."""
BARS = 40
"""Runs at most of which each has a bar of its own; the times of more are in the table."""


@attrs.frozen
class Plot:
    """A plot as it stands in the report."""

    name: str
    """Name of the file."""
    title: str
    png: bytes
    without: tuple[str, ...] = ()
    """The runs that never logged the metric, where it is a plot of runs."""
    section: str = "curves"
    """Part of the page: ``curves``, ``finals`` or ``seconds``."""
    wide: bool = False
    """Whether it has panels side by side."""


def plots(sweep: SweepData) -> list[Plot]:
    """Return every plot for which at least one run has data; they need matplotlib."""
    return [*_finals(sweep), *_curves(sweep), *_seconds(sweep.runs)]


def many(runs: Sequence[RunData]) -> bool:
    """Say whether there are too many settings for a line each."""
    return len({run.setting if run.seed else run.label for run in runs}) > FEW


def compared(sweep: SweepData) -> dict[str, Sequence[str]]:
    """Return the axes with something to compare: more than one value, and not repetitions."""
    return {axis: values for axis, values in sweep.axes.items() if len(values) > 1 and axis != SEED_AXIS}


def _finals(sweep: SweepData) -> Iterator[Plot]:
    from .finals import by_axis

    if not any(run.series(SUCCESS) and (run.status == "success" or run.failed_regime) for run in sweep.runs):
        return
    for axis, values in compared(sweep).items():
        name = f"final_{_file_name(axis)}"
        drawn = by_axis(axis, values, sweep.runs)
        wide = len(values) > FEW
        yield Plot(name, f"Final validation success by {axis}", drawn, section="finals", wide=wide)


def _curves(sweep: SweepData) -> Iterator[Plot]:
    from .aggregate import values as table
    from .curves import by_settings, by_values

    logged = [curve for curve in CURVES if any(run.series(curve.metric) for run in sweep.runs)]
    if not many(sweep.runs):
        for curve in logged:
            without = tuple(run.title for run in sweep.runs if not run.series(curve.metric))
            yield Plot(curve.name, curve.title, by_settings(curve, sweep.runs), without)
    elif logged:
        going = [run for run in sweep.runs if not run.failed_regime]
        tables = {curve: table(going, curve.metric) for curve in logged}
        for axis, values in compared(sweep).items():
            drawn = by_values(axis, values, tables, sweep.runs)
            yield Plot(f"by_{_file_name(axis)}", f"Metrics over the steps by {axis}", drawn, wide=True)


def _seconds(runs: Sequence[RunData]) -> Iterator[Plot]:
    from .finals import seconds

    timed = [run for run in runs if run.seconds()]
    if timed and len(runs) <= BARS:
        without = tuple(run.title for run in runs if run not in timed)
        yield Plot("seconds", "Seconds per step", seconds(timed), without, section="seconds")


def _file_name(axis: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", axis)
