"""These are standard errors as they were once reported, wrong by known factors: only for comparing with old results."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from torch import Tensor

from .base import CONDITIONAL_E, Result, require_variance, variance_of_mean
from .controls import CvBatchSe
from .entropy_change import predicted_change
from .sequences import PREDICTION, JvpShardSe
from .terms import Terms
from .ustat import UstatPlugin


@attrs.frozen
class LegacyUstatPlugin(UstatPlugin):
    """Compute the plug-in of the one-batch U-statistic as it was coded: sqrt(U) / 2 times too large.

    zeta1 = U / (4 (U - 1)) * sum (r_u - mean)^2, var = eta^2 * 4 zeta1 / U, so that se is the standard deviation of r
    and does not shrink with the batch. The right one is ``ustat_plugin``.
    """

    estimand: ClassVar[str] = f"none, a wrong number for {UstatPlugin.estimand}"

    def of(self, r_U: Tensor, eta: float) -> Result:
        n, var_r = require_variance(r_U), float(r_U.var())
        return Result(eta * float(r_U.mean()), eta**2 * var_r, n, {"zeta1": n / 4 * var_r})


@attrs.frozen
class LegacyJvpShardSe(JvpShardSe):
    """Compute the shard standard error as it was reported: too small by the number of shards.

    c_m = sum over shard m of (jH + H S1 - h T S1) / sum T, which add up to D; se = eta * std(c) / sqrt(S), the error of
    the mean contribution, where S times that is the error of their sum. The right one is ``jvp_shard_se``.
    """

    estimand: ClassVar[str] = f"none, a wrong number for {CONDITIONAL_E}"

    def measure(self, terms: Terms) -> Result:
        statistic = self.statistic(terms)
        c_S = _contributions(statistic.features_C_F)
        return Result(statistic.value, float(terms["eta"]) ** 2 * variance_of_mean(c_S), len(c_S))


@attrs.frozen
class LegacyCvBatchSe(CvBatchSe):
    """Compute the standard error after control variates as it was reported: too small by the number of units.

    The contributions y_n, which add up to D, are those of ``legacy_jvp_shard_se`` with prompts as shards; they are
    regressed in-sample on z centred at its own mean; se = eta * sqrt(var(residual) / N). The right one is
    ``cv_batch_se``. extra: ``variance_ratio``, which is an in-sample 1 - R^2 and no gain.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION | {"z"}
    estimand: ClassVar[str] = f"none, a wrong number for {CONDITIONAL_E}"

    def measure(self, terms: Terms) -> Result:
        statistic = predicted_change(terms)
        y_C, z_C_Q = _contributions(statistic.features_C_F), self.controls(terms).features_C_F
        require_variance(y_C)
        centred_C_Q = z_C_Q - z_C_Q.mean(0)
        beta_Q = torch.linalg.pinv(centred_C_Q) @ y_C
        var = variance_of_mean(y_C - centred_C_Q @ beta_Q)
        eta = float(terms["eta"])
        return Result(statistic.value, eta**2 * var, len(y_C), {"variance_ratio": var / variance_of_mean(y_C)})


def _contributions(features_C_4: Tensor) -> Tensor:
    """Return what each unit adds to D, with h and sum T of the whole batch: [C]."""
    a_C, c_C, H_C, T_C = features_C_4.unbind(1)
    return (a_C - H_C.sum() / T_C.sum() * c_C) / T_C.sum()
