"""Claims are checked against the runs of a sweep: each holds, fails or cannot be told."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import attrs

from .claim import Claim, Term, is_at
from .data import RunData
from .following import LEAST
from .metrics import ENTROPY, INFORMATION, SUCCESS
from .multiple import holm
from .rank_correlation import require_scipy, student_p
from .ranking import LEVEL, Measure, step_seconds
from .stratified import rank_correlation

Verdict = Literal["holds", "fails", "cannot be told"]
ROUNDING = 1e-12
"""Standard error below which seeds differ by the rounding of sums alone."""


@attrs.frozen
class Checked:
    """A checked claim has the contrast of the runs beside that of the source."""

    claim: Claim
    contrast: float | None = None
    """Mean over the seeds of the weighted sum of the terms; a relative change if the claim is relative."""
    se: float | None = None
    """Its standard error: over the seeds, or over validation tasks where that is larger."""
    p: float | None = None
    """Chance, if nothing of the kind were true, of a contrast as far from what it is compared with: two-sided."""
    p_adjusted: float | None = None
    """The same after Holm's correction for all claims of the sweep."""
    seeds: tuple[str, ...] = ()
    """Seeds that have all runs that the claim needs."""
    verdict: Verdict = "cannot be told"
    why: str = ""
    """Reason for the verdict."""
    above: bool | None = None
    """Whether the contrast is on the upper side of what it is compared with; ``None`` without a p-value."""


@attrs.frozen
class Setting:
    """A setting has a measure of the runs beside the number of the source."""

    measure: str
    at: Mapping[str, str]
    figure: float | None
    source: str
    mean: float | None
    """Mean over the seeds."""
    se: float | None
    """Its standard error: over the seeds, or over validation tasks where that is larger or the only one."""
    seeds: int
    stopped: int
    """Runs among them that a detector stopped."""


@attrs.frozen
class Claims:
    """The claims of a sweep, checked, with the numbers that they compare."""

    checked: Sequence[Checked]
    settings: Sequence[Setting]


def peak(run: RunData) -> float | None:
    """Return the largest validation success of a run."""
    return max((value for _, value in run.series(SUCCESS)), default=None)


def peak_error(run: RunData) -> float | None:
    """Return the standard error over validation tasks of the validation that was the largest."""
    return max(run.measured(SUCCESS), key=lambda measured: measured[1], default=(0, 0.0, None))[2]


def last_information(run: RunData) -> float | None:
    """Return the mutual information that was measured last."""
    measured = run.series(INFORMATION)
    return measured[-1][1] if measured else None


def with_success(metric: str) -> Callable[[RunData], float | None]:
    """Return the measure of a run that is the rank correlation of a metric with validation success at equal steps.

    A run has none with fewer than three steps that measure both, or if one of the two is constant.
    """

    def of(run: RunData) -> float | None:
        success = dict(run.series(SUCCESS))
        pairs = [(value, success[step]) for step, value in run.series(metric) if step in success]
        return rank_correlation([pairs]) if len(pairs) >= LEAST else None

    return of


CLAIMED: Mapping[str, Measure] = {
    "peak": Measure("peak", "peak success", peak, peak_error),
    "information": Measure("information", "last mutual information", last_information),
    "information_with_success": Measure(
        "information_with_success", "rank correlation of mutual information with success", with_success(INFORMATION)
    ),
    "entropy_with_success": Measure(
        "entropy_with_success", "rank correlation of entropy with success", with_success(ENTROPY)
    ),
    "seconds": Measure("seconds", "seconds per step", step_seconds, best=-1),
}
"""Measures of a run that claims may be about."""


def check(runs: Sequence[RunData], claims: Sequence[Claim]) -> Claims:
    """Check the claims against runs that have ended.

    A run that a detector stopped counts as one that used its budget does: how far it came, and what it had left, is
    what the claim is about. A seed counts for a claim if all runs that the claim needs have ended with that seed and
    were measured. The contrast of each seed is one observation, and its error and p-value (Student's t with one degree
    of freedom less than there are seeds) are over seeds; the error over validation tasks is taken where it is larger. A
    claim is decided if its p-value is at most :data:`.ranking.LEVEL` after Holm's correction for all claims of the
    sweep, so one seed decides nothing.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    require_scipy()
    checked = [_contrast(runs, claim) for claim in claims]
    adjusted = holm([each.p for each in checked])
    decided = [_decided(each, p) for each, p in zip(checked, adjusted, strict=True)]
    settings = {
        (claim.measure, tuple(term.at.items()), term.figure): _setting(runs, claim, term)
        for claim in claims
        for term in claim.terms
    }
    return Claims(decided, list(settings.values()))


def _ended(run: RunData) -> bool:
    return run.status == "success" or run.failed_regime


def _by_seed(runs: Sequence[RunData], measure: Measure, term: Term) -> dict[str, list[RunData]]:
    """Return the runs of a term by their seed, without the seeds of which a run has not ended or measured nothing."""
    seeds: dict[str, list[RunData]] = {}
    incomplete = set()
    for run in runs:
        if is_at(run.point, term.at):
            seeds.setdefault(run.seed, []).append(run)
            if not _ended(run) or measure.of(run) is None:
                incomplete.add(run.seed)
    return {seed: own for seed, own in seeds.items() if seed not in incomplete}


def _mean(measure: Measure, runs: Sequence[RunData]) -> float:
    return statistics.fmean(value for run in runs if (value := measure.of(run)) is not None)


def _task_variance(measure: Measure, runs: Sequence[RunData]) -> float | None:
    """Return the variance of the mean of runs that comes from their validation tasks; ``None`` if one is unknown."""
    errors = [error for run in runs if (error := measure.error(run)) is not None]
    return sum(error**2 for error in errors) / len(runs) ** 2 if len(errors) == len(runs) else None


def _contrast(runs: Sequence[RunData], claim: Claim) -> Checked:
    """Return the contrast of a claim with its error and its p-value, not yet corrected."""
    measure = CLAIMED[claim.measure]
    terms = [(term.weight, _by_seed(runs, measure, term)) for term in claim.terms]
    seeds = [seed for seed in terms[0][1] if all(seed in by_seed for _, by_seed in terms)]
    if not seeds:
        return Checked(claim, why=_why_nothing(runs, claim))
    contrasts, variances = [], []
    for seed in seeds:
        means = [(weight, _mean(measure, by_seed[seed])) for weight, by_seed in terms]
        if claim.relative and min(mean for _, mean in means) <= 0:
            return Checked(claim, why=f"{measure.title} is not positive, so that it has no relative change")
        contrasts.append(sum(weight * (math.log(mean) if claim.relative else mean) for weight, mean in means))
        for weight, by_seed in terms:
            variance = _task_variance(measure, by_seed[seed])
            variances.append(None if variance is None else weight**2 * variance)
    return _tested(claim, seeds, contrasts, variances)


def _tested(
    claim: Claim, seeds: Sequence[str], contrasts: Sequence[float], variances: Sequence[float | None]
) -> Checked:
    """Return the test of the contrasts of the seeds: of the nearer of the two bounds that would decide the claim."""
    mean, count = statistics.fmean(contrasts), len(seeds)
    known = [variance for variance in variances if variance is not None]
    of_tasks = math.sqrt(sum(known)) / count if known and len(known) == len(variances) else None
    of_seeds = _error(contrasts) if count > 1 else None
    se = max((error for error in (of_seeds, of_tasks) if error is not None), default=None)
    shown = math.expm1(mean) if claim.relative else mean
    # the error of exp(x) is exp(x) times that of x, to first order
    shown_se = se if se is None or not claim.relative else math.exp(mean) * se
    tested = Checked(claim, shown, shown_se, seeds=tuple(seeds))
    if count < 2:
        return attrs.evolve(tested, why="one seed: nothing is known of what chance does between seeds")
    if not se:
        why = "all seeds agree to the last digit, which gives no error" if mean else "no seed has any difference"
        return attrs.evolve(tested, why=why, p=None if mean else 1.0)
    bound = claim.margin if claim.direction == "not higher" else 0.0
    # the chance of it being as far above 0, or below the bound, by chance
    above, below = (student_p(t, count - 1) if t > 0 else 1.0 for t in (mean / se, (bound - mean) / se))
    # what is surely smaller than matters is of no use, even if it is surely there
    is_above = above < below and not below <= LEVEL
    return attrs.evolve(tested, p=above if is_above else below, above=is_above)


def _error(contrasts: Sequence[float]) -> float:
    """Return the standard error of the mean over seeds; 0 where they differ by no more than sums are rounded."""
    error = statistics.stdev(contrasts) / math.sqrt(len(contrasts))
    return error if error > ROUNDING else 0.0


def _decided(checked: Checked, p: float | None) -> Checked:
    """Return the claim with its corrected p-value and its verdict."""
    checked = attrs.evolve(checked, p_adjusted=p)
    if p is None or checked.above is None:
        return checked
    if p > LEVEL:
        return attrs.evolve(checked, why=f"p is above {LEVEL}")
    holds = checked.above is (checked.claim.direction == "higher")
    if checked.claim.direction == "not higher":
        why = "it is higher" if checked.above else f"it is less than {checked.claim.margin:g} higher"
    else:
        why = "higher" if checked.above else "lower"
    return attrs.evolve(checked, verdict="holds" if holds else "fails", why=why)


def _why_nothing(runs: Sequence[RunData], claim: Claim) -> str:
    """Say why no seed has all that the claim needs."""
    measure = CLAIMED[claim.measure]
    for term in claim.terms:
        place = ", ".join(f"{axis} {value}" for axis, value in term.at.items()) or "the sweep"
        own = [run for run in runs if is_at(run.point, term.at)]
        if not own:
            return f"{place}: there is no run"
        if not any(_ended(run) for run in own):
            counts = dict.fromkeys(run.status_text for run in own)
            return f"{place}: no run has ended ({', '.join(counts)})"
        if not any(_ended(run) and measure.of(run) is not None for run in own):
            return f"{place}: {measure.title} was not measured"
    return "no seed has ended in all of its settings"


def _setting(runs: Sequence[RunData], claim: Claim, term: Term) -> Setting:
    measure = CLAIMED[claim.measure]
    by_seed = _by_seed(runs, measure, term)
    used = [run for own in by_seed.values() for run in own]
    means = [_mean(measure, own) for own in by_seed.values()]
    variances = [_task_variance(measure, own) for own in by_seed.values()]
    known = [variance for variance in variances if variance is not None]
    errors = [math.sqrt(sum(known)) / len(means)] if known and len(known) == len(means) else []
    if len(means) > 1:
        errors.append(statistics.stdev(means) / math.sqrt(len(means)))
    return Setting(
        measure=measure.title,
        at=term.at,
        figure=term.figure,
        source=claim.source,
        mean=statistics.fmean(means) if means else None,
        se=max(errors, default=None),
        seeds=len(means),
        stopped=sum(run.failed_regime for run in used),
    )
