"""Metrics are held against what follows on them: rank correlations within runs and over runs, with their errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from ...core.errors import RequestError, nearest
from .correlation_estimate import Estimate, corrected, mean, over
from .data import RunData
from .following import Course, Target
from .metrics import ENTROPY, INFORMATION, OUTCOME
from .rank_correlation import student_p

NO_PAIR = "no pair"
KINDS = ("within", "at_once", "at_equal_step", "over_runs")
"""Kinds of correlation that a metric has."""


@attrs.frozen
class Correlation:
    """A correlation says how one metric goes with what follows on it."""

    metric: str
    within: Estimate
    """Mean over the runs of the correlation within each, with the target's later measurements."""
    at_once: Estimate
    """The same with the target's measurements at the same step."""
    at_equal_step: Estimate
    """That with later measurements, with the step held fixed."""
    over_runs: Estimate
    """Correlation of the last pairs of the runs."""
    left_out: Mapping[str, int]
    """Reason -> runs that have no correlation within them."""

    @property
    def is_known(self) -> bool:
        """Whether any of its correlations is known."""
        return any(getattr(self, kind).rho is not None for kind in KINDS)

    @property
    def of_outcomes(self) -> bool:
        """Whether its name says that it is made of success or rewards itself."""
        return OUTCOME.search(self.metric) is not None


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

    uncompared: Sequence[str]
    """Logged metrics that are not held against the target: itself, its standard error, seconds."""
    environments: int
    """Environments of the final pairs, which are ranked within each."""

    @property
    def known(self) -> list[Correlation]:
        """The metrics that have a correlation."""
        return [row for row in self.rows if row.is_known]

    @property
    def without(self) -> dict[str, list[str]]:
        """Reasons -> names of the metrics that have none."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if not row.is_known:
                names.setdefault(", ".join(row.left_out), []).append(row.metric)
        return names

    @property
    def diagnosis(self) -> list[tuple[str, Correlation | None]]:
        """Mutual information and entropy, which were asked for before any result: corrected for these two alone.

        ``None`` for one that no run has logged.
        """
        rows = {row.metric: row for row in self.rows}
        asked = [(name, rows.get(name)) for name in (INFORMATION, ENTROPY)]
        known = iter(_corrected([row for _, row in asked if row]))
        return [(name, next(known) if row else None) for name, row in asked]

    @property
    def tested(self) -> int:
        """How many metrics have an error within runs."""
        return sum(row.within.se is not None for row in self.rows)

    @property
    def told(self) -> int:
        """How many of them can be told from none after Holm's correction."""
        return sum(row.within.verdict in ("higher", "lower") for row in self.rows)

    @property
    def above(self) -> int:
        """How many of them are above 2 SE."""
        return sum(row.within.above for row in self.rows)


def correlate(runs: Sequence[RunData], target: Target, where: Path | str) -> Correlations:
    """Return the rank correlation of every metric with the target (pairs: :func:`.following.follow`).

    *Within runs*: the correlation over the course of each run with what follows, averaged over the runs. The pairs of a
    run depend on each other, the runs do not, so that errors are over runs: the standard deviation (ddof 1) over the
    square root of their number, and p that of Student's t with one degree of freedom less than runs. A few runs may
    agree by chance: where the error that independent pairs would have without any correlation, 1 / sqrt(pairs - 1) in
    each run, is the larger one, it is used, and so is its p (of a normal distribution). One run has no error. *At
    once*: the same with the target at the same step. *At equal step*: that with what follows, of partial correlations
    with the step held fixed. *Over runs*: the correlation of the last pair of each run that used its budget, ranked
    among the runs of the same environment; its error is that of the jackknife, or 1 / sqrt(runs - environments) where
    that is larger; p is that of :func:`.stratified.independence_p`. Each kind is corrected by itself.

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
    uncompared = [name for name in logged if not target.is_compared(name)]
    return Correlations(target, rows, len(measured), by_chance, left_out, uncompared, len(final))


def _final_courses(runs: Sequence[RunData]) -> tuple[list[list[Course]], list[tuple[str, str]]]:
    """Return the courses of the runs that used their budget by environment, and titles of the others with the reason.

    A last value that was not finite is none, and the one before it is no final value.
    """
    ends: dict[int, int] = {}
    for run in runs:
        if run.status == "success" and run.course and run.course.last_step is not None:
            ends[run.steps] = max(ends.get(run.steps, 0), run.course.last_step)
    final: dict[str, list[Course]] = {}
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
            final.setdefault(run.environment, []).append(run.course)
    return list(final.values()), left_out


def _correlation(metric: str, measured: Sequence[Course], final: Sequence[Sequence[Course]]) -> Correlation:
    followed = [course.metrics.get(metric) for course in measured]
    why = Counter(NO_PAIR if each is None else each.why for each in followed if each is None or each.why)
    own = [each for each in followed if each is not None]
    now = [each for course in measured if (each := course.at_once.get(metric))]
    last = [[each.last for course in courses if (each := course.metrics.get(metric))] for courses in final]
    return Correlation(
        metric=metric,
        within=mean([(each.rho, each.pairs - 1) for each in own if each.rho is not None]),
        at_once=mean([(each.rho, each.pairs - 1) for each in now if each.rho is not None]),
        at_equal_step=mean([(each.at_equal_step, each.pairs - 2) for each in own if each.at_equal_step is not None]),
        over_runs=over(last),
        left_out=dict(sorted(why.items())),
    )


def _strength(estimate: Estimate) -> float:
    return -1.0 if estimate.rho is None else abs(estimate.rho)


def _corrected(rows: Sequence[Correlation]) -> list[Correlation]:
    """Return the rows with Holm's p-values, of which each kind of correlation is corrected by itself."""
    within, at_once, at_equal_step, over_runs = (corrected([getattr(row, kind) for row in rows]) for kind in KINDS)
    return [
        attrs.evolve(
            row, within=within[at], at_once=at_once[at], at_equal_step=at_equal_step[at], over_runs=over_runs[at]
        )
        for at, row in enumerate(rows)
    ]
