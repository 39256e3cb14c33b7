"""Surrogate losses of the policy, per token and before any aggregation."""

from __future__ import annotations

from typing import Any

import attrs
import torch

from ...core.components import LossInputs, LossOutput, PolicyLoss
from .ratios import advantages_of, log_ratio_of, policy_kl, share


def above_one(instance: object, attribute: Any, value: float | None) -> None:
    """Refuse a bound of ratios that is not above 1."""
    if value is not None and not value > 1:
        raise ValueError(f"{attribute.name} must be more than 1, or null for none, got {value}")


@attrs.frozen
class Ppo(PolicyLoss):
    """Compute the clipped surrogate loss of PPO, with separate bounds and a dual clip.

    With ``r = exp(clamp(logprob - old_logprob, -20, 20))`` and the advantage A of each token,
    ``loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))``, and where A < 0 at most ``-A dual_clip``: an unlikely
    token with a negative advantage that has become likely would otherwise have a gradient without bound.

    The loss is zero off the mask, whatever stands there. Metrics, as sums and counts over tokens on the mask:
    ``pg_clipfrac`` (the clipped term is the larger one), ``pg_clipfrac_lower`` (the dual clip acts) and ``ppo_kl``
    (mean of old_logprob - logprob in nats: an estimate of KL(old || new)).

    Source: Schulman et al. 2017; separate bounds from DAPO (Yu et al. 2025), whose 0.28 is the default here as in
    RAGEN; dual clip from Ye et al. 2020; formula as in verl 0.6.1.
    """

    clip_low: float = attrs.field(default=0.2, validator=attrs.validators.ge(0))
    """Distance below 1 at which the ratio stops counting."""
    clip_high: float = attrs.field(default=0.28, validator=attrs.validators.ge(0))
    """Distance above 1 at which the ratio stops counting."""
    dual_clip: float | None = attrs.field(default=3.0, validator=above_one)
    """Bound on the ratio where the advantage is negative; ``null`` sets none."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        mask_B_T, advantages_B_T = inputs.mask, advantages_of(inputs)
        log_ratios_B_T = log_ratio_of(inputs)
        ratios_B_T = log_ratios_B_T.exp()
        unclipped_B_T = -advantages_B_T * ratios_B_T
        clipped_B_T = -advantages_B_T * ratios_B_T.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_B_T = torch.maximum(unclipped_B_T, clipped_B_T)
        bounded_B_T = torch.zeros_like(mask_B_T)
        if self.dual_clip is not None:
            bound_B_T = -advantages_B_T * self.dual_clip
            bounded_B_T = (advantages_B_T < 0) & (loss_B_T > bound_B_T)
            loss_B_T = torch.where(bounded_B_T, bound_B_T, loss_B_T)
        metrics = {
            "pg_clipfrac": share(clipped_B_T > unclipped_B_T, mask_B_T),
            "pg_clipfrac_lower": share(bounded_B_T, mask_B_T),
            "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T),
        }
        return LossOutput(loss_B_T, metrics)
