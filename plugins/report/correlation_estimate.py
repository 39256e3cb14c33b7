"""Rank correlations of several runs become one estimate, with an error that counts runs, never steps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import attrs

from .following import LEAST
from .multiple import holm
from .rank_correlation import student_p, student_quantile
from .stratified import Strata, independence_p, jackknife_error, rank_correlation

RUNS, PAIRS = "runs", "pairs"
LEVEL = 0.05
"""Largest p-value, after Holm's correction, at which a correlation counts as one."""
NORMAL = 1.959963984540054
"""How far from 0 a normal variate is in 5 % of cases."""
TOO_FEW = f"too few runs: even in perfect order p is above {LEVEL}"


@attrs.frozen
class Estimate:
    """An estimate is a rank correlation with its error."""

    rho: float | None = None
    runs: int = 0
    """Runs that it is from."""
    se: float | None = None
    """Standard error of ``rho``: the larger of the two that :func:`.correlation.correlate` knows."""
    se_from: str = ""
    """``runs`` or ``pairs``; empty without an error."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, not corrected for the number of metrics."""
    p: float | None = None
    """Chance of one at least as strong, of either sign, if the metric had nothing to do with the target."""
    p_holm: float | None = None
    """The same after Holm's correction for all metrics of the report."""
    why: str = ""
    """Reason that nothing can be told, if so."""

    @property
    def verdict(self) -> str:
        """``higher`` or ``lower`` (so is the target, where the metric is higher), ``not distinguishable`` (p after
        Holm's correction is above :data:`LEVEL`), ``cannot be told`` (too few runs), or empty without a correlation.
        """
        if self.rho is None:
            return ""
        if self.why or self.p is None:
            return "cannot be told"
        if (self.p if self.p_holm is None else self.p_holm) > LEVEL:
            return "not distinguishable"
        return "higher" if self.rho > 0 else "lower"

    @property
    def above(self) -> bool:
        """Whether it is at least 2 standard errors away from 0."""
        return self.rho is not None and self.se is not None and abs(self.rho) >= 2 * self.se


def mean(correlations: Sequence[tuple[float, int]]) -> Estimate:
    """Return the mean of correlations of runs, each with the degrees of freedom that its pairs have.

    The interval holds both that of Student's t over runs and that of independent pairs, so that it is without 0 where
    p is below 0.05.
    """
    count = len(correlations)
    if not count:
        return Estimate()
    rho = statistics.fmean(rho for rho, _ in correlations)
    if count == 1:
        return Estimate(rho, count, why="one run")
    over_runs = statistics.stdev(rho for rho, _ in correlations) / math.sqrt(count)
    of_pairs = math.sqrt(math.fsum(1 / freedom for _, freedom in correlations)) / count
    by_runs = student_p(rho / over_runs, count - 1) if over_runs else 0.0
    by_pairs = math.erfc(abs(rho) / of_pairs / math.sqrt(2))
    reach = max(student_quantile(count - 1) * over_runs, NORMAL * of_pairs)
    return Estimate(rho, count, *_larger(over_runs, of_pairs), *_interval(rho, reach), max(by_runs, by_pairs))


def over(strata: Strata) -> Estimate:
    """Return the correlation of the last pairs of runs, ranked within each stratum."""
    strata = [stratum for stratum in strata if len(stratum) > 1]
    count = sum(map(len, strata))
    rho = rank_correlation(strata) if count >= LEAST else None
    if rho is None:
        return Estimate()
    orders = math.prod(math.factorial(len(stratum)) for stratum in strata)
    why = TOO_FEW if 2 / orders > LEVEL else ""
    p, spread, freedom = independence_p(strata), jackknife_error(strata), count - 1 - len(strata)
    if spread is None or freedom < 1:
        return Estimate(rho, count, p=p, why=why)
    se, se_from = _larger(spread, 1 / math.sqrt(freedom + 1))
    return Estimate(rho, count, se, se_from, *_interval(rho, student_quantile(freedom) * se), p, why=why)


def corrected(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the estimates with Holm's p-values, corrected for the number of those that were tested."""
    adjusted = holm([None if estimate.why else estimate.p for estimate in estimates])
    return [attrs.evolve(estimate, p_holm=p) for estimate, p in zip(estimates, adjusted, strict=True)]


def _larger(over_runs: float, of_pairs: float) -> tuple[float, str]:
    return max((over_runs, RUNS), (of_pairs, PAIRS))


def _interval(rho: float, reach: float) -> tuple[float, float]:
    return max(-1.0, rho - reach), min(1.0, rho + reach)
