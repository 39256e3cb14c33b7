"""The measured change, deltaH_true, is the change of the entropy to all orders, by importance sampling.

The sequences were sampled before the step; :mod:`.predicted_change` has the change to first order, deltaH1.

The weight of a sequence is w = pi_new / pi_old of all its tokens; the payload is its entropy under the new parameters,
at the same tokens. The entropy after the step is sum w h1 / sum w T (per token) or sum w h1 / sum w (per sequence).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts
from ....estimators.variance.base import Degenerate
from ....estimators.variance.diagnostics import SnisEss
from ....estimators.variance.entropy_change import Statistic, by_prompt, delta_variance, true_change
from ....estimators.variance.terms import Terms
from .passes import Direction, Outputs, Passes
from .psis import smooth
from .sequences import EntropyMode, weight_terms

Mode = Literal["snis", "clip", "psis", "is"]
BINS = 30
"""Number of bins in the histogram of the log-weights."""


@attrs.frozen
class Weighting:
    """A weighting says what is done to the importance weights."""

    mode: Mode = "snis"
    """Treatment of the weights. ``snis``: self-normalised; ``clip``: at most ``clip_c``, then self-normalised (biased,
    less noisy); ``psis``: Pareto smoothed, then self-normalised; ``is``: not normalised (unbiased per sequence,
    noisier)."""
    clip_c: float = 10.0
    """Largest weight of ``clip``."""

    def apply(self, log_weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return the log-weights to use ([S] nats), and what was done to them: ``clipped_fraction``, ``pareto_k``."""
        match self.mode:
            case "clip":
                bound = math.log(self.clip_c)
                clipped = float((log_weights > bound).double().mean())
                return log_weights.clamp(max=bound), {"clipped_fraction": clipped}
            case "psis":
                smoothed, k = smooth(log_weights)
                return smoothed, {"pareto_k": k}
        return log_weights, {}


@attrs.frozen(eq=False)
class Measured:
    """An object of this class holds what was measured at one eta: weights and entropies of the sequences."""

    eta: float
    log_weights: Tensor
    """Log-weights as they are: [S] nats."""
    used: Tensor
    """Log-weights that the estimate uses: [S] nats."""
    h1: Tensor
    """Entropies after the step: [S] nats."""
    done: dict[str, float]
    """Numbers that say what was done to the weights; see :meth:`Weighting.apply`."""
    mode: Mode

    @property
    def w(self) -> Tensor:
        """Weights that the estimate uses: [S]."""
        return self.used.exp()

    def change(self, terms: Terms) -> tuple[float, float]:
        """Return (value, standard error) of the change, in the unit of ``terms``, which hold H, T and prompt.

        The error is NaN where there is no spread: one prompt, or eta 0.
        """
        after = attrs.evolve(terms, eta=self.eta, h1=self.h1)
        if self.mode == "is" and terms.entropy_unit != "per_token_ratio":
            return with_error(_unnormalised_change(attrs.evolve(after, w=self.w)))
        return with_error(true_change(attrs.evolve(after, w=self._scaled())))

    def _scaled(self) -> Tensor:
        """Return the weights over the largest one, since the weight of a long sequence may be beyond float64."""
        return (self.used - self.used.max()).exp()

    def weights_of(self, terms: Terms) -> dict[str, Any]:
        """Return how good the weights are: effective sample size, mean (it should be 1), its error, and log-weights."""
        w, lw = self.log_weights.exp(), self.log_weights
        mean = SnisEss().estimate(attrs.evolve(terms, w=w))
        used, scaled = self.w, self._scaled()
        # both sums have the largest weight divided out, which cancels in their ratio
        ess = float(scaled.sum() ** 2 / scaled.square().sum())
        counts, edges = torch.histogram(lw[lw.isfinite()], BINS)
        return {
            "ess": ess,
            "ess_fraction": ess / len(w),
            "mean_w": float(w.mean()),
            "se_mean_w": mean.se,
            "w_max": float(used.max()),
            "w_min": float(used.min()),
            "logw": {
                "mean": float(lw.mean()),
                "std": float(lw.std()) if len(lw) > 1 else math.nan,
                "min": float(lw.min()),
                "max": float(lw.max()),
                "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            },
            **self.done,
        }


def measure(
    passes: Passes,
    base: Outputs,
    step: Direction,
    eta: float,
    rollouts: Rollouts,
    weighting: Weighting,
    mode: EntropyMode = "rb",
) -> Measured:
    """Measure weights and entropies of the sequences at theta + eta * step, by one forward pass.

    Args:
        base: [B, T] outputs of the same passes at theta.
    """
    log_weights_S, h1_S = weight_terms(base, passes.forward(step, eta), rollouts, mode)
    used_S, facts = weighting.apply(log_weights_S)
    return Measured(eta, log_weights_S, used_S, h1_S, facts, weighting.mode)


def with_error(statistic: Statistic) -> tuple[float, float]:
    """Return a statistic's value and its standard error by the delta method: NaN where the terms have no spread."""
    try:
        return statistic.value, delta_variance(statistic.influence_C()) ** 0.5
    except Degenerate:
        return statistic.value, math.nan


def _unnormalised_change(terms: Terms) -> Statistic:
    """Define the mean of w h1 less the mean of H; where means of tokens are asked for, both over T."""
    T = terms["T"] if terms.entropy_unit == "per_seq_token_mean" else torch.ones_like(terms["H"])
    return by_prompt(
        terms,
        [terms["w"] * terms["h1"] / T, terms["H"] / T, torch.ones_like(T)],
        lambda sums: (sums[..., 0] - sums[..., 1]) / sums[..., 2],
    )
