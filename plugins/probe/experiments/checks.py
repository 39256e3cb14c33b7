"""Each check of sanity-check says from plain numbers whether something holds that must hold if the probe is right.

All runs share one update batch U and draw their evaluation batches E independently. What every run estimates alone (the
mean weight, the score identity) is pooled over the runs, which finds smaller faults than the worst run does; what must
hold in every run (identities, hashes, the effective sample size) is judged by the worst.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import torch

from ....estimators.variance.repeats import chi2_quantile

IDENTITY = 1e-6
"""Relative difference up to which two ways to one number agree."""
STANDARD_ERRORS = 4.0
"""Standard errors that a quantity may be from its known mean: normal noise exceeds them once in 16 000."""
Z = 3.0
"""Standard errors of their difference that prediction and truth may be apart."""
ESS_FRACTION = 0.5
"""Share of the sample that the effective sample size must exceed."""
SHIFT = 0.1
"""Nats per token below which the canary cannot tell one position from the next; see :func:`shift_canary`."""
TELLING = 0.5
"""Share of the shifted gap by which the right gap must be smaller."""

Measured = tuple[float, float]
"""Estimate and its standard error."""


@attrs.frozen
class Criterion:
    """A criterion is one requirement, and says whether it is met."""

    name: str
    value: float | None
    """Value that is judged; ``None`` where there was nothing to judge."""
    threshold: float | tuple[float, float] | None
    """Bound of the value; two numbers are the band that it must lie in, ``None`` a bound that depends on the data."""
    passed: bool | None
    """Whether it is met; ``None`` is not applicable, or not measured, and ``explanation`` says which."""
    explanation: str


def success_rate(successes: int, total: int) -> Criterion:
    """Check that every run succeeds."""
    rate = successes / total if total else None
    return Criterion("success_rate", rate, 1.0, bool(total) and successes == total, f"{successes} of {total} runs")


def finite(numbers: Mapping[str, float]) -> Criterion:
    """Check that no number of a result is NaN or infinite; the value counts those that are."""
    wrong = [name for name, value in numbers.items() if not math.isfinite(value)]
    if not numbers:
        return _unmeasured("finite", 0.0, "no run has a result")
    named = ", ".join(wrong[:5]) + (" and others" if len(wrong) > 5 else "")
    text = f"NaN or infinite: {named}" if wrong else f"all of {len(numbers)} numbers are finite"
    return Criterion("finite", float(len(wrong)), 0.0, not wrong, text)


def adam_coverage(shares: Sequence[float]) -> Criterion:
    """Check that every trained parameter has its state of the optimizer: the least share over runs is 1."""
    if not shares:
        return _unmeasured("adam_coverage", 1.0)
    least = _worst(min, shares)
    return Criterion("adam_coverage", least, 1.0, least == 1, "share of trained parameters with optimizer state")


def step_length(norms: Sequence[float]) -> Criterion:
    """Check that the update moves the parameters: without a step everything else holds, and says nothing."""
    if not norms:
        return _unmeasured("step_length", 0.0)
    least = _worst(min, norms)
    text = "norm of the update per unit of learning rate, least over runs; 0 if no response has an advantage"
    return Criterion("step_length", least, 0.0, least > 0, text)


def unchanged(hashes: Sequence[tuple[str, str]]) -> Criterion:
    """Check that parameters and optimizer state have one hash (before, after) each run; the value counts the others."""
    if not hashes:
        return _unmeasured("unchanged", 0.0)
    wrong = sum(before != after for before, after in hashes)
    text = f"runs that changed parameters or optimizer state, of {len(hashes)}"
    return Criterion("unchanged", float(wrong), 0.0, not wrong, text)


def shift_canary(canaries: Sequence[Mapping[str, float | None]]) -> Criterion:
    """Check that sampled tokens fit the policy where they are scored, and do not fit it one position off.

    Each canary has ``gap``, the mean of log-prob plus entropy per token, which is 0 for whatever a policy samples of
    itself, and ``shifted_gap``, the same one position off, with their standard errors. A wrong alignment of the score
    itself makes both large; so the right one must be smaller by :data:`TELLING` of the larger. Where both are within
    :data:`SHIFT` nats, or within their noise, nothing can be told: a policy that is nearly uniform, or that does not
    look at what it has read, fits alike at every position.
    """
    telling = [canary for canary in canaries if _tells(canary)]
    if not telling:
        why = "the policy fits alike at every position: it is nearly uniform" if canaries else "not measured"
        return _unmeasured("shift_canary", TELLING, why)
    least = _worst(min, [_gain(canary) for canary in telling])
    text = "share of its misfit one position off that the score has not, in the least telling run"
    return Criterion("shift_canary", least, TELLING, least > TELLING, text)


def _tells(canary: Mapping[str, float | None]) -> bool:
    noise = (canary.get("gap_se") or 0.0, canary.get("shifted_gap_se") or 0.0)
    bounds = (max(SHIFT, STANDARD_ERRORS * se) for se in noise)
    return not all(gap <= bound for gap, bound in zip(_gaps(canary), bounds, strict=True))


def _gain(canary: Mapping[str, float | None]) -> float:
    gap, shifted = _gaps(canary)
    return (shifted - gap) / max(shifted, gap)


def _gaps(canary: Mapping[str, float | None]) -> tuple[float, float]:
    """Return the sizes of the right gap and the shifted one; NaN for what was no number."""
    right, shifted = canary["gap"], canary["shifted_gap"]
    return math.nan if right is None else abs(right), math.nan if shifted is None else abs(shifted)


def score_identity(means: Sequence[Measured]) -> Criterion:
    """Check that the derivative of a sequence's log-prob along the update has the mean 0, as E is the policy's sample.

    A token that was sampled but not counted (an EOS), or counted but not sampled, breaks it.
    """
    return _pooled("score_identity", means, 0.0, "mean derivative of the sequence log-prob")


def mean_weight(means: Sequence[Measured]) -> Criterion:
    """Check that the mean importance weight is 1."""
    return _pooled("mean_weight", means, 1.0, "mean importance weight")


def ess_fraction(fractions: Sequence[float]) -> Criterion:
    """Check that the effective sample size is more than half of the sample, in every run."""
    if not fractions:
        return _unmeasured("ess_fraction", ESS_FRACTION)
    least = _worst(min, fractions)
    text = "effective sample size of the importance weights over the sample size, least over runs"
    return Criterion("ess_fraction", least, ESS_FRACTION, least > ESS_FRACTION, text)


def product_identity(pairs: Sequence[tuple[float, float]]) -> Criterion:
    """Check that deltaH1 is eta times the mean inner product, by another route: (that product, deltaH1) of each run."""
    text = "relative difference of deltaH1 and eta times the mean inner product over prompts, worst over runs"
    return _identical("product_identity", pairs, text)


def sign_flip(pairs: Sequence[tuple[float, float]], proxy: bool) -> Criterion:
    """Check that negated advantages negate deltaH1: (deltaH1 with -A, deltaH1) of each run.

    It holds for the preconditioned gradient only: AdamW adds momentum and weight decay, whatever the advantages are.
    """
    if not proxy:
        return _unmeasured("sign_flip", IDENTITY, _ONLY_PROXY)
    text = "relative difference of deltaH1 with advantages -A and -deltaH1, worst over runs"
    return _identical("sign_flip", [(-negated, delta) for negated, delta in pairs], text)


def zero_advantage(values: Sequence[float], proxy: bool) -> Criterion:
    """Check that deltaH1 is exactly 0 without advantages, with which the preconditioned gradient has no step."""
    if not proxy:
        return _unmeasured("zero_advantage", 0.0, _ONLY_PROXY)
    if not values:
        return _unmeasured("zero_advantage", 0.0)
    worst = _worst(max, [abs(value) for value in values])
    return Criterion("zero_advantage", worst, 0.0, worst == 0, "|deltaH1| with all advantages 0, worst over runs")


def spread(runs: Sequence[Measured], fixed_U: bool = True) -> Criterion:
    """Check that the predictions of the runs, (deltaH1, SE_conditional), scatter as much as their errors say.

    The value is their standard deviation (ddof 1) over the root of the mean SE^2. With K runs its square times (K - 1)
    has a chi-square distribution with K - 1 degrees of freedom, of which the threshold is the central 99 %.
    """
    name = "spread"
    if not fixed_U:
        return _unmeasured(name, None, "the runs have different update batches, which SE_conditional omits")
    if len(runs) < 2:
        return _unmeasured(name, None, "two runs with a standard error are needed")
    freedom = len(runs) - 1
    low, high = (math.sqrt(chi2_quantile(share, freedom) / freedom) for share in (0.005, 0.995))
    delta_K, se_K = torch.tensor(runs, dtype=torch.float64).T
    ratio = _ratio(float(delta_K.std()), float(se_K.square().mean().sqrt()))
    text = f"standard deviation of deltaH1 over {len(runs)} runs, over the standard error they state (central 99 %)"
    return Criterion(name, ratio, (low, high), low <= ratio <= high, text)


def prediction_against_truth(
    predictions: Sequence[Measured], truths: Sequence[Measured], fixed_U: bool = True
) -> Criterion:
    """Check that prediction and truth agree within their errors, across independent samples of E.

    In one run both come from the same sample, and the prediction is the exact derivative of the truth on it: their
    difference is curvature and no test. To pair every run with the next does not help: the mean over all such pairs is
    the mean over the runs again. So the runs are dealt into two halves, and the mean prediction of one is held against
    the mean truth of the other: z = (p - t) / sqrt(SE_p^2 + SE_t^2), with SE^2 = (sum of se^2) / n^2 of each half,
    is standard normal. The value is the larger of the two ways round, which differ by little more than their sign,
    so it exceeds 3 hardly more often than one alone (3 in 1000). It finds a bias of the prediction; the curvature of
    the truth at a large learning rate is one.
    """
    name = "prediction_against_truth"
    if not fixed_U:
        return _unmeasured(name, Z, "the runs have different update batches: each predicts another change")
    if len(predictions) < 2:
        return _unmeasured(name, Z, "two runs with prediction, truth and both errors are needed")
    first = _z_of_means(predictions[::2], truths[1::2])
    second = _z_of_means(predictions[1::2], truths[::2])
    z = _worst(lambda both: max(both, key=abs), [first, second])
    text = f"z of the mean prediction of one half of {len(predictions)} runs against the mean truth of the other"
    return Criterion(name, z, Z, abs(z) < Z, text)


_ONLY_PROXY = "only for the direction preconditioned_gradient: AdamW adds momentum and weight decay"


def _unmeasured(name: str, threshold: float | None, why: str = "not measured") -> Criterion:
    return Criterion(name, None, threshold, None, why)


def _pooled(name: str, means: Sequence[Measured], expected: float, what: str) -> Criterion:
    if not means:
        return _unmeasured(name, STANDARD_ERRORS)
    mean, se = _mean(means)
    z = _ratio(mean - expected, se)
    text = f"{what} {mean:.6g} ± {se:.2g} over {len(means)} runs; {expected:g} is expected; in standard errors"
    return Criterion(name, z, STANDARD_ERRORS, abs(z) < STANDARD_ERRORS, text)


def _identical(name: str, pairs: Sequence[tuple[float, float]], text: str) -> Criterion:
    if not pairs:
        return _unmeasured(name, IDENTITY)
    worst = _worst(max, [abs(_ratio(one - other, abs(other))) for one, other in pairs])
    return Criterion(name, worst, IDENTITY, worst <= IDENTITY, text)


def _z_of_means(predictions: Sequence[Measured], truths: Sequence[Measured]) -> float:
    (p, se_p), (t, se_t) = _mean(predictions), _mean(truths)
    return _ratio(p - t, math.hypot(se_p, se_t))


def _mean(measured: Sequence[Measured]) -> Measured:
    """Return the mean of independent estimates, and its standard error."""
    x_K, se_K = torch.tensor(measured, dtype=torch.float64).T
    return float(x_K.mean()), float(se_K.norm()) / len(measured)


def _ratio(difference: float, scale: float) -> float:
    """Return difference over scale; with a scale of 0 it is 0 for no difference, and infinite for any other."""
    if scale:
        return difference / scale
    return math.copysign(math.inf, difference) if difference else 0.0


def _worst(choose: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    """Return the value that ``choose`` takes, but NaN if any is NaN: it passes no comparison."""
    return math.nan if any(map(math.isnan, values)) else choose(values)
