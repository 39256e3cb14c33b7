"""Metrics are held against what follows on them: rank correlations within runs and over runs, with their errors."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...core.errors import RequestError, nearest
from .data import RunData
from .following import LEAST, Course, Followed, Target
from .multiple import holm
from .rank_correlation import independence_p, jackknife_error, spearman, student_p

RUNS, PAIRS = "runs", "pairs"
NO_PAIR = "no pair"


@attrs.frozen
class Estimate:
    """An estimate is a rank correlation with its error."""

    rho: float | None = None
    runs: int = 0
    """Runs that it is from."""
    se: float | None = None
    """Standard error of ``rho``: the larger of the two that :func:`correlate` knows."""
    se_from: str = ""
    """``runs`` or ``pairs``; empty without an error."""
    p: float | None = None
    """Chance of one at least as strong, of either sign, if the metric had nothing to do with what follows."""
    p_holm: float | None = None
    """The same after Holm's correction for all metrics of the report."""

    @property
    def verdict(self) -> str:
        """``higher`` or ``lower`` (so is what follows, where the metric is higher), ``not distinguishable`` (below 2
        SE), ``no standard error``, or empty.
        """
        if self.rho is None:
            return ""
        if self.se is None:
            return "no standard error"
        if abs(self.rho) < 2 * self.se:
            return "not distinguishable"
        return "higher" if self.rho > 0 else "lower"


@attrs.frozen
class Correlation:
    """A correlation says how one metric goes with what follows on it."""

    metric: str
    within: Estimate
    """Mean over the runs of the correlation within each."""
    at_equal_step: Estimate
    """The same with the step held fixed."""
    over_runs: Estimate
    """Correlation of the last pairs of the runs."""
    left_out: Mapping[str, int]
    """Reason -> runs that have no correlation within them."""


@attrs.frozen
class Correlations:
    """The correlations of all metrics with one target, the strongest within runs first."""

    target: Target
    rows: Sequence[Correlation]
    runs: int
    """Runs that could be read and have logged the target."""
    by_chance: float
    """Metrics that would be above 2 SE within runs by chance, if none had anything to do with what follows."""
    left_out_over_runs: Sequence[tuple[str, str]]
    """Titles of the runs that are in no correlation over runs, each with the reason."""

    @property
    def known(self) -> list[Correlation]:
        """The metrics that have a correlation."""
        return [row for row in self.rows if row.within.rho is not None or row.over_runs.rho is not None]

    @property
    def without(self) -> list[str]:
        """Names of the metrics that have none."""
        return [row.metric for row in self.rows if row.within.rho is None and row.over_runs.rho is None]

    @property
    def tested(self) -> int:
        """How many metrics have an error within runs."""
        return sum(row.within.se is not None for row in self.rows)

    @property
    def above(self) -> int:
        """How many of them are above 2 SE."""
        return sum(row.within.verdict in ("higher", "lower") for row in self.rows)


def correlate(runs: Sequence[RunData], target: Target, where: Path) -> Correlations:
    """Return the rank correlation of every metric with the target that follows on it (:func:`.following.follow`).

    *Within runs*: the correlation over the course of each run, averaged over the runs. The pairs of a run depend on
    each other, the runs do not, so that errors are over runs: the standard deviation (ddof 1) over the square root of
    their number, and p that of Student's t with one degree of freedom less than runs. A few runs may agree by chance:
    where the error that independent pairs would have without any correlation, 1 / sqrt(pairs - 1) in each run, is the
    larger one, it is used, and so is its p (of a normal distribution). One run has no error. *At equal step*: the same
    of partial correlations, with the step held fixed. *Over runs*: the correlation of the last pair of each run that
    used its budget; its error is that of the jackknife, or 1 / sqrt(runs - 1) where that is larger; p is that of
    :func:`.rank_correlation.independence_p`.

    Raises:
        RequestError: no run has logged the target.
    """
    courses = [run.course for run in runs if run.course is not None]
    logged = sorted({name for course in courses for name in course.logged})
    if target.metric not in logged:
        fix = nearest(target.metric, logged) if logged else "no run has logged anything yet: run the sweep first"
        raise RequestError(f"no run has logged a finite {target.metric}", str(where), fix)
    measured = [course for course in courses if course.last_step is not None]
    final, left_out = _final_courses(runs)
    names = [name for name in logged if target.is_compared(name)]
    rows = _corrected([_correlation(name, measured, final) for name in names])
    rows.sort(key=lambda row: (-_strength(row.within), -_strength(row.over_runs), row.metric))
    by_chance = math.fsum(student_p(2.0, row.within.runs - 1) for row in rows if row.within.se is not None)
    return Correlations(target, rows, len(measured), by_chance, left_out)


def _final_courses(runs: Sequence[RunData]) -> tuple[list[Course], list[tuple[str, str]]]:
    """Return the courses of the runs that used their budget, and the titles of the others with the reason.

    A last value that was not finite is none, and the one before it is no final value.
    """
    ends: dict[int, int] = {}
    for run in runs:
        if run.status == "success" and run.course and run.course.last_step is not None:
            ends[run.steps] = max(ends.get(run.steps, 0), run.course.last_step)
    final: list[Course] = []
    left_out: list[tuple[str, str]] = []
    for run in runs:
        if run.status != "success" or run.course is None:
            left_out.append((run.title, run.status_text))
        elif run.course.last_step is None:
            left_out.append((run.title, "not measured"))
        elif run.course.last_step < ends[run.steps]:
            at = f"last measured at step {run.course.last_step}, others at step {ends[run.steps]}"
            left_out.append((run.title, at))
        else:
            final.append(run.course)
    return final, left_out


def _correlation(metric: str, measured: Sequence[Course], final: Sequence[Course]) -> Correlation:
    followed = [course.metrics.get(metric) for course in measured]
    why = Counter(NO_PAIR if each is None else each.why for each in followed if each is None or each.why)
    own = [each for each in followed if each is not None]
    return Correlation(
        metric=metric,
        within=_mean([(each.rho, each.pairs - 1) for each in own if each.rho is not None]),
        at_equal_step=_mean([(each.at_equal_step, each.pairs - 2) for each in own if each.at_equal_step is not None]),
        over_runs=_over([each for course in final if (each := course.metrics.get(metric))]),
        left_out=dict(sorted(why.items())),
    )


def _mean(correlations: Sequence[tuple[float, int]]) -> Estimate:
    """Return the mean of correlations of runs, each with the degrees of freedom that its pairs have."""
    count = len(correlations)
    if not count:
        return Estimate()
    rho = statistics.fmean(rho for rho, _ in correlations)
    if count == 1:
        return Estimate(rho, count)
    over_runs = statistics.stdev(rho for rho, _ in correlations) / math.sqrt(count)
    of_pairs = math.sqrt(math.fsum(1 / freedom for _, freedom in correlations)) / count
    by_runs = student_p(rho / over_runs, count - 1) if over_runs else 0.0
    by_pairs = math.erfc(abs(rho) / of_pairs / math.sqrt(2))
    return Estimate(rho, count, *_larger(over_runs, of_pairs), max(by_runs, by_pairs))


def _over(followed: Sequence[Followed]) -> Estimate:
    """Return the correlation of the last pairs of runs."""
    values, targets = [each.last[0] for each in followed], [each.last[1] for each in followed]
    count = len(followed)
    rho = spearman(values, targets) if count >= LEAST else None
    if rho is None:
        return Estimate()
    spread = jackknife_error(values, targets)
    se, se_from = (None, "") if spread is None else _larger(spread, 1 / math.sqrt(count - 1))
    return Estimate(rho, count, se, se_from, independence_p(values, targets))


def _larger(over_runs: float, of_pairs: float) -> tuple[float, str]:
    return max((over_runs, RUNS), (of_pairs, PAIRS))


def _strength(estimate: Estimate) -> float:
    return -1.0 if estimate.rho is None else abs(estimate.rho)


def _corrected(rows: Sequence[Correlation]) -> list[Correlation]:
    """Return the rows with Holm's p-values, of which each kind of correlation is corrected by itself."""
    within, at_equal_step, over_runs = (
        _holm([getattr(row, kind) for row in rows]) for kind in ("within", "at_equal_step", "over_runs")
    )
    return [
        attrs.evolve(row, within=within[at], at_equal_step=at_equal_step[at], over_runs=over_runs[at])
        for at, row in enumerate(rows)
    ]


def _holm(estimates: Sequence[Estimate]) -> list[Estimate]:
    adjusted = holm([estimate.p for estimate in estimates])
    return [attrs.evolve(estimate, p_holm=p) for estimate, p in zip(estimates, adjusted, strict=True)]
