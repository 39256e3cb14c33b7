"""What follows on a metric within a run: its values are paired with later measurements of another metric."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain, compress
from statistics import fmean
from typing import TYPE_CHECKING, Any

import attrs

from ...core.errors import RequestError
from .rank_correlation import correlation, partial, ranks

if TYPE_CHECKING:
    from .rank_correlation import Ranks

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
    """How each metric goes with the target's later measurements."""
    at_once: Mapping[str, Followed]
    """How each metric goes with the target's measurement at the same step."""


def follow(records: Sequence[Mapping[str, Any]], target: Target) -> Course:
    """Pair each metric of a run with what follows on it, and with what is measured at once.

    Later: a value at step t belongs to the first measurement of the target at step t + lag or later; values that belong
    to the same measurement are averaged. Values after which the target is not measured any more are in no pair, and so
    is what is not finite. At once: a value at step t belongs to the measurement of the target at step t, if there is
    one.
    """
    at_step = [int(record["step"]) for record in records]
    columns = _columns(records)
    measured = [at for at, value in enumerate(columns.get(target.metric, ())) if value is not None]
    later = [value for value in columns.get(target.metric, ()) if value is not None]
    # what belongs to a measurement lies together: from where the one before it has its end
    ends = [bisect_right(at_step, at_step[at] - target.lag) for at in measured]
    means = {
        name: [_mean(column[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
        for name, column in columns.items()
        if target.is_compared(name)
    }
    now = {name: [columns[name][at] for at in measured] for name in means}
    last_step = at_step[measured[-1]] if measured else None
    return Course(frozenset(columns), last_step, _correlated(means, later), _correlated(now, later))


def _correlated(means: Mapping[str, Sequence[float | None]], later: Sequence[float]) -> dict[str, Followed]:
    """Return how the means of each metric go with what is later; without metrics that are in no pair."""
    # metrics that have values before the same measurements are ranked at once, which is much faster
    together: dict[tuple[bool, ...], list[str]] = defaultdict(list)
    for name, column in means.items():
        together[tuple(mean is not None for mean in column)].append(name)
    followed = {}
    for pattern, names in together.items():
        y = list(compress(later, pattern))
        if y:
            rows = [[mean for mean in means[name] if mean is not None] for name in names]
            y_ranks = ranks(y)
            for name, x, x_ranks in zip(names, rows, ranks(rows), strict=True):
                followed[name] = _followed(list(zip(x, y, strict=True)), x_ranks, y_ranks)
    return followed


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


def _followed(pairs: Sequence[tuple[float, float]], ranked: Ranks, target: Ranks) -> Followed:
    """Return how a metric goes with the target, from the ranks of both."""
    if len(pairs) < LEAST:
        return Followed(len(pairs), pairs[-1], None, None, FEW)
    rho = correlation(ranked, target)
    if rho is None:
        why = CONSTANT if ranked.min() == ranked.max() else CONSTANT_TARGET
        return Followed(len(pairs), pairs[-1], None, None, why)
    at_equal_step = None
    if len(pairs) >= LEAST_AT_EQUAL_STEP:
        step = _steps(len(pairs))
        at_equal_step = partial(rho, correlation(ranked, step), correlation(target, step))
    return Followed(len(pairs), pairs[-1], rho, at_equal_step)


@cache
def _steps(count: int) -> Ranks:
    """Return the ranks of so many steps, which are in order."""
    return ranks(range(count))
