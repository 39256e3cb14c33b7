"""These estimators take the variance from repetitions of the whole probe: they assume nothing and cost most."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import ge, optional
from torch import Tensor

from .base import TOTAL_ONE_BATCH, Degenerate, Estimator, Result, require_units, require_variance
from .terms import Terms


def chi2_quantile(share: float, freedom: int) -> float:
    """Compute a quantile of the chi-square distribution, by bisection of the regularised incomplete gamma function."""
    half = torch.tensor(freedom / 2, dtype=torch.float64)
    low = 0.0
    # ten standard deviations above the mean, and 60 more for few degrees of freedom, whose tail is longer
    high = freedom + 10 * math.sqrt(2 * freedom) + 60
    for _ in range(100):
        middle = (low + high) / 2
        if torch.special.gammainc(half, torch.tensor(middle / 2, dtype=torch.float64)) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class _OfRepeats(Estimator):
    """The base of the estimators from repetitions."""

    __slots__ = ()
    units: ClassVar[str] = "repetitions"

    def measured_in(self, terms: Terms) -> str:
        return "the unit of the repetitions"


@attrs.frozen
class RepeatStd(_OfRepeats):
    """Estimate the standard deviation of one result from K repetitions with different seeds.

    var = sum (x - mean)^2 / (K - 1), of a single repetition and not of their mean, which is the value. extra:
    ``se_low``, ``se_high``, the 95 % interval of se for normal results: for K = 3 it goes from 0.52 to 6.3 times se.
    With U fixed and E redrawn it is what ``conditional_E`` estimates, with both redrawn what ``vx_vy_unbiased`` does.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"repeats_K"})
    estimand: ClassVar[str] = "of one repetition, over whatever is drawn again in each"

    def measure(self, terms: Terms) -> Result:
        x_K = terms["repeats_K"]
        freedom = require_variance(x_K) - 1
        var = float(x_K.var())
        low, high = (math.sqrt(var * freedom / chi2_quantile(share, freedom)) for share in (0.975, 0.025))
        return Result(float(x_K.mean()), var, freedom + 1, {"se_low": low, "se_high": high})


@attrs.frozen
class UstatTwoTermFit(_OfRepeats):
    """Fit the variance of the one-batch U-statistic as a law of the batch size, from repetitions at several sizes.

    Var(U_B) = 4 zeta1 / B + 2 zeta2 / (B (B - 1)): the variances of the repetitions at each size B, times B, are
    regressed on 1 / (B - 1), each size with the weight (repetitions - 1). value: mean of all repetitions. extra:
    ``zeta1``, ``zeta2``, in the unit of the repetitions squared. A variance of 0 or below is undefined.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"repeats_K", "sizes_K"})
    estimand: ClassVar[str] = TOTAL_ONE_BATCH

    at: int | None = attrs.field(default=None, validator=optional(ge(2)))
    """Batch size that the variance is for; ``None`` is the largest that was repeated."""

    def measure(self, terms: Terms) -> Result:
        x_K, sizes_K = terms["repeats_K"], terms["sizes_K"]
        variances = _variances(x_K, sizes_K)
        require_units(len(variances), 2)
        B_L, var_L, freedom_L = torch.tensor(variances, dtype=torch.float64).T
        if not bool(var_L.any()):
            raise Degenerate("zero_variance", "the repetitions at each size are equal", len(x_K))
        design_L_2 = torch.stack([torch.ones_like(B_L), 1 / (B_L - 1)], 1) * freedom_L.sqrt()[:, None]
        law_2_1 = torch.linalg.lstsq(design_L_2, (B_L * var_L * freedom_L.sqrt())[:, None]).solution
        first, second = law_2_1.flatten().tolist()
        size = self.at or int(B_L.max())
        var = first / size + second / (size * (size - 1))
        if var <= 0:
            raise Degenerate(
                "undefined", f"the fitted law gives {var:.3g} at {size} prompts: too few repetitions", len(x_K)
            )
        return Result(float(x_K.mean()), var, len(x_K), {"zeta1": first / 4, "zeta2": second / 2})


def _variances(x_K: Tensor, sizes_K: Tensor) -> list[tuple[float, float, float]]:
    """List (size, variance, degrees of freedom) of each size above 1 that was repeated."""
    variances = []
    for size in torch.unique(sizes_K).tolist():
        x = x_K[sizes_K == size]
        if size > 1 and len(x) > 1:
            variances.append((float(size), float(x.var()), float(len(x) - 1)))
    return variances
