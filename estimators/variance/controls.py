"""Control variates make the error of the prediction smaller; their true mean is known to be 0."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch

from .base import CONDITIONAL_E, Estimator, Result, require_units, variance_of_mean
from .entropy_change import Statistic, by_prompt, predicted_change
from .sequences import PREDICTION
from .terms import Terms


@attrs.frozen
class CvBatchSe(Estimator):
    """Estimate the variance of the predicted change after control variates with true mean 0 are subtracted.

    With y_n the influence of prompt n on deltaH1 (``deriv_delta``) and z_n the sum of its controls,
    beta_-n = regression through 0 of y on z over all other prompts, value = deltaH1 - sum of beta_-n z_n and
    var = N / (N - 1) * sum of (y_n - beta_-n z_n - mean)^2. z is not centred at its own mean: that could not change
    anything. beta is fitted without the prompt that it is used on, so the mean stays unbiased and the gain is no
    in-sample R^2. It is only for controls whose mean is 0 by construction, which needs the end-of-sequence token to be
    counted. extra: ``variance_ratio``, var over that of ``deriv_delta``; above 1 the controls do harm.
    """

    needs: ClassVar[frozenset[str]] = PREDICTION | {"z"}
    estimand: ClassVar[str] = f"{CONDITIONAL_E}, with control variates"
    units: ClassVar[str] = "prompts of E"

    def measure(self, terms: Terms) -> Result:
        statistic = predicted_change(terms)
        y_C = statistic.influence_C()
        z_C_Q = self.controls(terms).features_C_F
        n, Q = z_C_Q.shape
        require_units(n, Q + 2)
        # what the pseudoinverse takes for rank 0 should not depend on the scale of a control
        z_C_Q = z_C_Q / z_C_Q.square().sum(0).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        gram_C_Q_Q = z_C_Q.T @ z_C_Q - z_C_Q[:, :, None] * z_C_Q[:, None, :]
        moment_C_Q = z_C_Q.T @ y_C - z_C_Q * y_C[:, None]
        beta_C_Q = (torch.linalg.pinv(gram_C_Q_Q, hermitian=True) @ moment_C_Q[:, :, None])[:, :, 0]
        subtracted_C = (beta_C_Q * z_C_Q).sum(1)
        var = n**2 * variance_of_mean(y_C - subtracted_C)
        var_without = n**2 * variance_of_mean(y_C)
        return Result(statistic.value - float(subtracted_C.sum()), var, n, {"variance_ratio": var / var_without})

    @staticmethod
    def controls(terms: Terms) -> Statistic:
        """Sum the controls of each prompt: features [C, Q]."""
        return by_prompt(terms, list(terms["z"].unbind(1)), lambda sums: sums.sum(-1))
