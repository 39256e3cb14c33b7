"""The analysis of batch-scaling decides whether the predicted change converges as E grows, or shrinks like 1 / B_E.

It shrinks so where a sum is divided by the batch size twice. The noise model is this. All runs of an experiment share
one update batch U, so their predictions estimate one number; each run draws an evaluation batch E of its own,
independent of the others of its size and of every other size. What is left to vary is E given U, and that is what
``SE_conditional`` measures: with the runs independent, the mean over K runs of one size has variance (mean of SE^2) /
K, and the means of different sizes are uncorrelated, so these variances are all the weights that a fit needs. Otherwise
they would be wrong: with U drawn anew the predictions also differ by the variance between updates, which
``SE_conditional`` does not hold, and with nested batches (a smaller one part of a larger) the sizes are correlated.
SE^2 is averaged over the runs of a size, not used run by run: where tails are heavy, a batch that missed the tail has
both a small error and a biased mean, and would be given the most weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

import attrs
import torch

Verdict = Literal["convergence", "inverse_B", "inconclusive"]

RATIO = 0.1
"""Largest distance of a ratio of two means from 1, or from the ratio of the sizes, for the ``suggests_`` keys."""
DECISIVE = 6.0
"""Difference of AIC above which one model is preferred: a likelihood ratio of 20."""
REJECTED = 0.01
"""Probability of a chi-square at or below which a model, or the standard errors, are not believed."""
NORMAL_95 = 1.959964
"""Standard deviations to either side that hold 95 % of a normal distribution."""


@attrs.frozen
class ScalingRun:
    """A scaling run is one successful run of batch-scaling."""

    B_E: int
    """Number of prompts of its evaluation batch."""
    deltaH1: float
    """Predicted change, in nats of whatever unit all runs share."""
    SE_conditional: float | None = None
    """Standard error of it over draws of E with U fixed; unknown where it is ``None``, NaN or 0."""


@attrs.frozen
class _Size:
    """A size has the runs of one B_E whose prediction is a number."""

    B_E: int
    values: tuple[float, ...]
    errors: tuple[float, ...]
    """Standard errors that are known; their squares are positive and finite."""

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def std(self) -> float | None:
        """Standard deviation over the runs, with ddof 1; ``None`` for one run."""
        if len(self.values) < 2:
            return None
        return float(torch.tensor(self.values, dtype=torch.float64).std())

    @property
    def mean_square_error(self) -> float:
        return sum(error * error for error in self.errors) / len(self.errors)

    @property
    def variance(self) -> float:
        """Variance of the mean over runs."""
        return self.mean_square_error / len(self.values)


def chi2_survival(chi2: float, freedom: int) -> float:
    """Return the probability that a chi-square variable with these degrees of freedom is at least ``chi2``; 1 for 0."""
    if not freedom:
        return 1.0
    half = torch.tensor([freedom / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def analyse(runs: Iterable[ScalingRun]) -> dict[str, Any]:
    """Return the mapping ``analysis`` of ``convergence_analysis.json``: plain data, ``None`` for what has no value.

    ``by_batch_size`` and ``scaling_analysis`` describe. ``verdict`` decides by ``fit`` (see :func:`_fit`), ``evidence``
    says why: one of two models is preferred if its AIC is lower by more than :data:`DECISIVE`, if it fits (probability
    of its chi-square above :data:`REJECTED`), and if the scatter within the sizes agrees with the standard errors.
    ``se_scaling`` has the power laws of ``SE_conditional`` and of the spread over runs, ``std_deltaH1``, in B_E.
    """
    ordered = sorted(runs, key=lambda run: run.B_E)
    groups = {B_E: list(group) for B_E, group in groupby(ordered, key=lambda run: run.B_E)}
    sizes = [_size(B_E, group) for B_E, group in groups.items()]
    measured = [size for size in sizes if size.values]
    fit = _fit([size for size in measured if size.errors])
    verdict, evidence = _verdict(fit, measured)
    # an error over B_E prompts has B_E - 1 degrees of freedom, a spread over runs one less than runs
    errors: list[tuple[int, float | None, int]] = []
    for size in measured:
        errors += [(size.B_E, error, size.B_E - 1) for error in size.errors]
    return {
        "by_batch_size": {str(size.B_E): _described(size, len(groups[size.B_E])) for size in sizes},
        "scaling_analysis": _ratios(measured),
        "total_successful_runs": len(ordered),
        "fit": fit,
        "verdict": verdict,
        "evidence": evidence,
        "se_scaling": {
            "SE_conditional": _power_law(errors),
            "std_deltaH1": _power_law([(s.B_E, s.std, len(s.values) - 1) for s in measured if s.std]),
        },
    }


def _size(B_E: int, runs: Sequence[ScalingRun]) -> _Size:
    values = tuple(float(run.deltaH1) for run in runs if math.isfinite(run.deltaH1))
    errors = (run.SE_conditional for run in runs if run.SE_conditional is not None)
    return _Size(B_E, values, tuple(float(error) for error in errors if 0 < error * error < math.inf))


def _described(size: _Size, runs: int) -> dict[str, Any]:
    return {
        "successful_runs": runs,
        "mean_deltaH1": size.mean if size.values else None,
        "std_deltaH1": size.std,
        "delta_values": list(size.values),
        "mean_SE_conditional": sum(size.errors) / len(size.errors) if size.errors else None,
        "SE_of_mean": math.sqrt(size.variance) if size.values and size.errors else None,
        "non_finite_runs": runs - len(size.values),
        "runs_with_SE": len(size.errors),
    }


def _ratios(sizes: Sequence[_Size]) -> dict[str, Any]:
    """Divide each mean by that of the smallest size: a description without a noise model, empty if that mean is 0."""
    if not sizes or not sizes[0].mean:
        return {}
    first, *larger = sizes
    ratios = {}
    for size in larger:
        ratio, inverse = size.mean / first.mean, first.B_E / size.B_E
        ratios[f"B_E_{first.B_E}_to_{size.B_E}"] = {
            "observed_ratio": ratio,
            "expected_if_1_over_B_E": inverse,
            "suggests_convergence": abs(ratio - 1) < RATIO,
            "suggests_1_over_B_E_scaling": abs(ratio - inverse) < RATIO,
        }
    return ratios


def _fit(sizes: Sequence[_Size]) -> dict[str, Any] | None:
    """Fit both models to the means of the sizes by weighted least squares; ``None`` with fewer than two sizes.

    ``convergence`` is mean(B) = c and ``inverse_B`` is mean(B) = c B_ref / B, of one parameter each: ``c`` (nats), its
    ``se``, ``chi2``, ``degrees_of_freedom`` = sizes - 1, the probability ``p``, and ``AIC`` = chi2 + 2. ``delta_aic``
    is AIC(inverse_B) - AIC(convergence): positive speaks for convergence. ``resolved_from`` is the least |deltaH1| for
    which the models are expected to differ by :data:`DECISIVE`. ``within_sizes`` compares the scatter of the runs
    about the mean of their size with their standard errors.
    """
    if len(sizes) < 2:
        return None
    reference = sizes[0].B_E
    mean_L = torch.tensor([size.mean for size in sizes], dtype=torch.float64)
    weight_L = 1 / torch.tensor([size.variance for size in sizes], dtype=torch.float64)
    shape_L = reference / torch.tensor([size.B_E for size in sizes], dtype=torch.float64)
    constant = _one_parameter(mean_L, weight_L, torch.ones_like(shape_L))
    inverse = _one_parameter(mean_L, weight_L, shape_L)
    # where the mean is the same at every size, the models' chi2 differ by the squared mean times this
    apart = float(weight_L.sum() - (weight_L * shape_L).sum() ** 2 / (weight_L * shape_L**2).sum())
    return {
        "sizes": [size.B_E for size in sizes],
        "B_ref": reference,
        "convergence": constant,
        "inverse_B": inverse,
        "delta_aic": inverse["AIC"] - constant["AIC"],
        "resolved_from": math.sqrt(DECISIVE / apart) if apart > 0 else None,
        "within_sizes": _within(sizes),
    }


def _one_parameter(mean_L: torch.Tensor, weight_L: torch.Tensor, shape_L: torch.Tensor) -> dict[str, Any]:
    information = (weight_L * shape_L**2).sum()
    c = float((weight_L * shape_L * mean_L).sum() / information)
    chi2 = float((weight_L * (mean_L - c * shape_L) ** 2).sum())
    freedom = len(mean_L) - 1
    return {
        "c": c,
        "se": float(information.rsqrt()),
        "chi2": chi2,
        "degrees_of_freedom": freedom,
        "p": chi2_survival(chi2, freedom),
        "AIC": chi2 + 2,
    }


def _within(sizes: Sequence[_Size]) -> dict[str, Any] | None:
    """Return the chi-square of the runs about the mean of their size; ``None`` if no size has two runs."""
    repeated = [size for size in sizes if len(size.values) > 1]
    freedom = sum(len(size.values) - 1 for size in repeated)
    if not freedom:
        return None
    chi2 = 0.0
    for size in repeated:
        for value in size.values:
            chi2 += (value - size.mean) * (value - size.mean) / size.mean_square_error
    return {"chi2": chi2, "degrees_of_freedom": freedom, "p": chi2_survival(chi2, freedom)}


def _verdict(fit: Mapping[str, Any] | None, sizes: Sequence[_Size]) -> tuple[Verdict, str]:
    if fit is None:
        with_errors = sum(bool(size.errors) for size in sizes)
        return "inconclusive", (
            f"{len(sizes)} size(s) with a prediction, {with_errors} of them with a standard error: two are needed"
        )
    constant, inverse = fit["convergence"], fit["inverse_B"]
    delta = fit["delta_aic"]
    fits = (
        f"delta AIC {delta:+.1f} (above 0 for convergence); chi2 {constant['chi2']:.1f} if the mean does not depend on "
        f"B_E, {inverse['chi2']:.1f} if it is as 1/B_E, with {constant['degrees_of_freedom']} degree(s) of freedom"
    )
    within = fit["within_sizes"]
    if within and not within["p"] > REJECTED:
        return "inconclusive", (
            f"the runs of one size scatter more than their standard errors say (chi2 {within['chi2']:.1f} with "
            f"{within['degrees_of_freedom']} degree(s) of freedom, p {within['p']:.1g}): nothing can be weighed; {fits}"
        )
    if not max(constant["p"], inverse["p"]) > REJECTED:
        return "inconclusive", f"neither model fits: the mean depends on B_E in some other way; {fits}"
    if not abs(delta) > DECISIVE:
        needed = fit["resolved_from"]
        least = "" if needed is None else f", and these sizes and errors tell the models apart from {needed:.2g}"
        return "inconclusive", f"the noise hides the law: the mean is {_with_error(constant)}{least}; {fits}"
    # the preferred model is the one with the larger p: both have the same degrees of freedom
    if delta > 0:
        return "convergence", f"deltaH1 is {_with_error(constant)} at every size; {fits}"
    return "inverse_B", (
        f"deltaH1 falls as 1/B_E from {_with_error(inverse)} at B_E = {fit['B_ref']}, as where a sum is divided by the "
        f"batch size twice; {fits}"
    )


def _with_error(model: Mapping[str, Any]) -> str:
    return f"{model['c']:.3g} ± {model['se']:.2g}"


def _power_law(points: Sequence[tuple[int, float | None, int]]) -> dict[str, Any] | None:
    """Fit the slope of log s over log B_E to (B_E, s, degrees of freedom of s); ``None`` with fewer than two sizes.

    For normal data log s is off by psi(f / 2) / 2 - log(f / 2) / 2 on average and has variance psi'(f / 2) / 4, with
    psi the digamma function and f its degrees of freedom; both are accounted for. Where the points scatter more than
    that, as with heavy tails, the error of the slope is widened by the root of chi2 / (points - 2). A standard error
    falls with slope -1/2; ``consistent`` says whether the 95 % interval holds that. ``at_1`` is s on the fitted line at
    B_E = 1.
    """
    usable = [(B_E, s, f) for B_E, s, f in points if s is not None and f > 0]
    if len({B_E for B_E, _, _ in usable}) < 2:
        return None
    B_P, s_P, freedom_P = torch.tensor(usable, dtype=torch.float64).T
    y_P = s_P.log() - 0.5 * (torch.special.digamma(freedom_P / 2) - (freedom_P / 2).log())
    weight_P = 4 / torch.special.polygamma(1, freedom_P / 2)
    total = weight_P.sum()
    # centred, level and slope are independent
    x_P = B_P.log() - (weight_P * B_P.log()).sum() / total
    level = float((weight_P * y_P).sum() / total)
    information = float((weight_P * x_P**2).sum())
    slope = float((weight_P * x_P * y_P).sum()) / information
    chi2 = float((weight_P * (y_P - level - slope * x_P) ** 2).sum())
    widened = math.sqrt(max(1.0, chi2 / (len(usable) - 2))) if len(usable) > 2 else 1.0
    se = widened / math.sqrt(information)
    low, high = slope - NORMAL_95 * se, slope + NORMAL_95 * se
    middle = float((weight_P * B_P.log()).sum() / total)
    return {
        "slope": slope,
        "se": se,
        "ci95": [low, high],
        "expected": -0.5,
        "consistent": low <= -0.5 <= high,
        "points": len(usable),
        "at_1": math.exp(level - slope * middle),
    }
