"""What follows on a metric within a run: its values are paired with later measurements of another metric."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import chain
from statistics import fmean
from typing import Any

import attrs

from ...core.errors import RequestError
from .rank_correlation import correlation, partial, ranks

LEAST = 3
"""Pairs that a rank correlation needs: two are always in perfect order."""
LEAST_AT_EQUAL_STEP = 4
"""Pairs that it needs with the step held fixed: three leave nothing but -1 and 1."""
CONSTANT, CONSTANT_TARGET, FEW = "constant", "target constant", f"fewer than {LEAST} pairs"


@attrs.frozen
class Target:
    """A target is the metric that others are held against, at its first measurement at least ``lag`` steps later.

    Raises RequestError if ``lag`` is no whole number of 1 or more.
    """

    metric: str
    lag: int = attrs.field(default=1)

    @lag.validator
    def _check(self, _: object, lag: int) -> None:
        if not isinstance(lag, int) or lag < 1:
            raise RequestError(f"lag is {lag!r}", fix="what follows is a whole number of steps later, 1 or more")

    def is_compared(self, metric: str) -> bool:
        """Say whether a metric is held against the target: not the target itself, its standard error, nor seconds."""
        return metric not in (self.metric, f"{self.metric}_se") and not metric.startswith("timing_s/")


@attrs.frozen
class Followed:
    """How a metric of one run goes with what follows on it."""

    pairs: int
    """Pairs of a value and the later measurement."""
    last: tuple[float, float]
    """The last pair."""
    rho: float | None
    """Spearman's rank correlation of the pairs."""
    at_equal_step: float | None
    """The same with the step held fixed: what is left of it beyond the trend that both have over the run."""
    why: str = ""
    """Reason that there is no ``rho``."""


@attrs.frozen
class Course:
    """The course of one run: what it logged, when the target was last measured, and how each metric goes with it."""

    logged: frozenset[str]
    """Names of the metrics that have a finite value."""
    last_step: int | None
    """Step of the last measurement of the target."""
    metrics: Mapping[str, Followed]


def follow(records: Sequence[Mapping[str, Any]], target: Target) -> Course:
    """Pair each metric of a run with what follows on it.

    A value at step t belongs to the first measurement of the target at step t + lag or later; values that belong to the
    same measurement are averaged. Values after which the target is not measured any more are in no pair, and so is what
    is not finite.
    """
    at_step = [int(record["step"]) for record in records]
    columns = _columns(records)
    measured = [at for at, value in enumerate(columns.get(target.metric, ())) if value is not None]
    later = [value for value in columns.get(target.metric, ()) if value is not None]
    # what belongs to a measurement lies together: from where the one before it has its end
    ends = [bisect_right(at_step, at_step[at] - target.lag) for at in measured]
    followed, later_ranks = {}, ranks(later)
    for name, column in columns.items():
        if target.is_compared(name):
            means = [_mean(column[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
            pairs = [(mean, value) for mean, value in zip(means, later, strict=True) if mean is not None]
            if pairs:
                whole = len(pairs) == len(later)
                followed[name] = _followed(pairs, later_ranks if whole else ranks([value for _, value in pairs]))
    return Course(frozenset(columns), at_step[measured[-1]] if measured else None, followed)


def _columns(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Return the values of each metric at the records, ``None`` where one is not finite; without what never is."""
    names = dict.fromkeys(chain.from_iterable(records))
    columns = {name: _finite(records, name) for name in names if name != "step"}
    return {name: column for name, column in columns.items() if any(value is not None for value in column)}


def _finite(records: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    """Return the values of a metric at each record; ``None`` where it is not finite or was not logged."""
    values = [record.get(name) for record in records]
    return [value if value is not None and math.isfinite(value) else None for value in values]


def _mean(column: Sequence[float | None]) -> float | None:
    values = [value for value in column if value is not None]
    if not values:
        return None
    if min(values) == max(values):
        return values[0]  # what is constant stays so, however many values are rounded into a mean
    try:
        return fmean(values)
    except OverflowError:
        return math.fsum(value / len(values) for value in values)


def _followed(pairs: Sequence[tuple[float, float]], target: Sequence[float]) -> Followed:
    """Return how a metric goes with the target, of which the ranks are given."""
    if len(pairs) < LEAST:
        return Followed(len(pairs), pairs[-1], None, None, FEW)
    ranked = ranks([value for value, _ in pairs])
    rho = correlation(ranked, target)
    if rho is None:
        return Followed(len(pairs), pairs[-1], None, None, CONSTANT if len({*ranked}) == 1 else CONSTANT_TARGET)
    at_equal_step = None
    if len(pairs) >= LEAST_AT_EQUAL_STEP:
        time = [float(at) for at in range(1, len(pairs) + 1)]
        at_equal_step = partial(rho, correlation(ranked, time), correlation(target, time))
    return Followed(len(pairs), pairs[-1], rho, at_equal_step)
