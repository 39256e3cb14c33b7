"""A ranking says how each value of a sweep's first axis does beside the first one: success, what is kept, and time."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import attrs

from .data import SEED_AXIS, RunData, SweepData
from .metrics import DETECTORS, ENTROPY, INFORMATION, SUCCESS
from .multiple import holm
from .rank_correlation import require_scipy, student_p
from .statistics import Pairs, at_one_step

LEVEL = 0.05
"""Largest adjusted p-value at which a difference counts as one."""


@attrs.frozen
class Measure:
    """A measure makes one number of a run."""

    name: str
    title: str
    of: Callable[[RunData], float | None]
    """The number of a run, or ``None`` if it was not measured."""
    error: Callable[[RunData], float | None] = lambda run: None
    """The standard error that the run itself gives for it, if there is one."""
    last_of: str = ""
    """The metric of which it is the last value: both runs of a pair must have measured it at the same step."""
    best: int = 1
    """1 if more is better, -1 if less is."""


@attrs.frozen
class Estimate:
    """An estimate is a measure of one value of the axis, beside the first value."""

    mean: float | None = None
    """Mean over the runs of the pairs."""
    difference: float | None = None
    """Mean over the seeds of what changes against the run of the first value with the same seed."""
    se: float | None = None
    """Standard error of the difference: over seeds, or over validation tasks where that is larger or the only one."""
    p: float | None = None
    """Two-sided p-value of Student's t with one degree of freedom less than there are seeds; of the normal
    distribution where only the validation tasks give an error."""
    p_adjusted: float | None = None
    """The same after Holm's correction for all values of the axis."""
    rank: int | None = None
    """Place among all values, the first one included; 1 is the best."""
    verdict: str = "not measured"
    """``higher``, ``lower``, ``not distinguishable``, ``no standard error`` or ``not measured``."""


@attrs.frozen
class Row:
    """A row of the ranking is one value of the axis."""

    value: str
    pairs: int
    """Number of runs that used their budget and have a partner of the first value that did, too."""
    estimates: Mapping[str, Estimate]
    """Estimate of each measure."""
    left_out: tuple[str, ...]
    """Runs that are in no mean, each with its status."""


@attrs.frozen
class Ranking:
    """A ranking orders the values of an axis by their final success."""

    axis: str
    baseline: str
    rows: Sequence[Row]
    """All values, the best final success first."""

    @property
    def compared(self) -> int:
        """Number of values that were compared with the baseline: those for which Holm's correction pays."""
        return sum(row.value != self.baseline and row.pairs > 0 for row in self.rows)


def area(run: RunData) -> float | None:
    """Return the area under the curve of validation success, divided by its steps: a mean success over the run."""
    measured = run.series(SUCCESS)
    if len(measured) < 2:
        return None
    pieces = itertools.pairwise(measured)
    total = sum((later - step) * (value + after) / 2 for (step, value), (later, after) in pieces)
    return total / (measured[-1][0] - measured[0][0])


def step_seconds(run: RunData) -> float | None:
    """Return the mean seconds of a training step without its validation and its detectors."""
    step = run.seconds_of("step")
    return None if step is None else step - sum(run.seconds_of(stage) or 0.0 for stage in ("validation", DETECTORS))


def _last(metric: str) -> Callable[[RunData], float | None]:
    return lambda run: measured[-1][1] if (measured := run.measured(metric)) else None


def _last_error(run: RunData) -> float | None:
    return measured[-1][2] if (measured := run.measured(SUCCESS)) else None


MEASURES = (
    Measure("success", "final success", _last(SUCCESS), _last_error),
    Measure("area", "area under the curve", area),
    Measure("entropy", "entropy at the end", lambda run: run.tail(ENTROPY)),
    Measure("information", "mutual information at the end", _last(INFORMATION), last_of=INFORMATION),
    Measure("seconds", "seconds per step", step_seconds, best=-1),
)
"""What a ranking compares. Paired runs start from the same model, so that what one has left is what it kept."""


def rank(sweep: SweepData) -> Ranking | None:
    """Compare every value of the first axis with the first value, run by run at the same seed.

    Only runs that used their whole budget count, as in every comparison of a report, and only where both of a pair were
    last measured at the same step. ``None`` if nothing but seeds is varied.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    require_scipy()
    varied = [axis for axis in sweep.axes if axis != SEED_AXIS]
    if not varied:
        return None
    axis, values = varied[0], sweep.axes[varied[0]]
    baseline = values[0]
    at = {frozenset(run.point.items()): run for run in sweep.runs}
    pairs: dict[str, Pairs] = {value: [] for value in values}
    left_out: dict[str, list[str]] = {value: [] for value in values}
    for run in sweep.runs:
        value = run.point[axis]
        partner = at.get(frozenset({**run.point, axis: baseline}.items()))
        if run.status != "success":
            left_out[value].append(f"{run.title}: {run.status_text}")
        elif partner and partner.status == "success":
            pairs[value].append((run, partner))
    for value in values:
        pairs[value], apart = at_one_step(pairs[value], SUCCESS)
        left_out[value] += apart
    estimates = {measure.name: _estimates(measure, pairs, baseline) for measure in MEASURES}
    rows = [
        Row(value, len(pairs[value]), {name: each[value] for name, each in estimates.items()}, tuple(left_out[value]))
        for value in values
    ]
    return Ranking(axis, baseline, sorted(rows, key=lambda row: row.estimates["success"].rank or math.inf))


def _estimates(measure: Measure, pairs: Mapping[str, Pairs], baseline: str) -> dict[str, Estimate]:
    """Return the estimate of one measure for each value, corrected for their number."""
    estimates = {value: _estimate(measure, matched, value == baseline) for value, matched in pairs.items()}
    adjusted = holm([each.p for each in estimates.values()])
    # sorting keeps equal ones in the order of the sweep
    measured = [value for value, each in estimates.items() if each.difference is not None]
    order = sorted(measured, key=lambda value: -measure.best * (estimates[value].difference or 0.0))
    ranks = {value: place for place, value in enumerate(order, 1)}
    return {
        value: attrs.evolve(each, p_adjusted=p, rank=ranks.get(value), verdict=_verdict(each, p, value == baseline))
        for (value, each), p in zip(estimates.items(), adjusted, strict=True)
    }


def _estimate(measure: Measure, pairs: Pairs, is_baseline: bool) -> Estimate:
    differences: dict[str, list[float]] = defaultdict(list)
    means: list[float] = []
    errors: list[float | None] = []
    for run, partner in at_one_step(pairs, measure.last_of)[0] if measure.last_of else pairs:
        value, other = measure.of(run), measure.of(partner)
        if value is not None and other is not None:
            means.append(value)
            differences[run.seed].append(value - other)
            errors += [measure.error(run), measure.error(partner)]
    if not means:
        return Estimate()
    by_seed = [statistics.fmean(each) for each in differences.values()]
    mean, difference = statistics.fmean(means), statistics.fmean(by_seed)
    if is_baseline:
        return Estimate(mean, 0.0)
    seeds = statistics.stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else None
    known = [error for error in errors if error is not None]
    tasks = math.hypot(*known) / len(means) if known and len(known) == len(errors) else None
    se = max((error for error in (seeds, tasks) if error is not None), default=None)
    return Estimate(mean, difference, se, _p_value(difference, se, len(by_seed)))


def _p_value(difference: float, se: float | None, seeds: int) -> float | None:
    """Return the two-sided p-value; ``None`` where nothing is known of the error, or chance gave it as 0."""
    if difference == 0:
        return 1.0
    if not se:
        return None
    ratio = abs(difference) / se
    return student_p(ratio, seeds - 1) if seeds > 1 else math.erfc(ratio / math.sqrt(2))


def _verdict(estimate: Estimate, p: float | None, is_baseline: bool) -> str:
    if is_baseline:
        return "baseline"
    if estimate.difference is None:
        return "not measured"
    if p is None:
        return "no standard error"
    if p > LEVEL:
        return "not distinguishable"
    return "higher" if estimate.difference > 0 else "lower"
