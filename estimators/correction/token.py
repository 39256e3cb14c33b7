"""These corrections weight each sampled token by its own ratio; one of them does nothing.

A product of token ratios would be needed to correct for the states as well: with one ratio per token, the gradient of
each token is right in the states that the sampler visits, which are not quite those of the trainer. That bias is small
while a row's ratios stay near 1, and the variance is that of a single token rather than of a whole row.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor

from ...core.components import SamplerCorrection
from .ratios import ratios, share, token_log_ratios

Weights = tuple[Tensor, dict[str, float]]


@attrs.frozen
class NoCorrection(SamplerCorrection):
    """Leave every token at the weight 1; nothing is computed for it."""

    idle: ClassVar[bool] = True

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        return mask.to(old_logprobs.dtype), {}


@attrs.frozen
class Tis(SamplerCorrection):
    """Give each token its truncated importance weight, ``min(r, cap)`` with ``r = exp(old_logprob - sampler_logprob)``.

    [B, T] x 3 -> [B, T], zero off the mask, without gradient. Log-ratios are clamped to +-20; ``cap: .inf`` truncates
    nothing else. Truncation bounds the variance and biases towards the sampler: tokens that it draws too rarely (r
    above the cap) count too little, and no other token changes; ratios below 1 are as they are.

    Metrics: ``mean_weight`` over sampled tokens (near 1 without truncation), ``truncated`` (share of sampled tokens
    with r above the cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training"; the estimator is
    that of Ionides 2008. verl's ``rollout_is: token`` with its default of 2; ``tis`` of OpenRLHF and NeMo-RL (which
    take a lower bound, too); TRL's ``token_truncate``, where the default is 3.
    """

    cap: float = attrs.field(default=2.0, validator=validators.gt(0))
    """Largest weight that a token may have."""

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        ratios_B_T = ratios(token_log_ratios(old_logprobs, sampler_logprobs, mask))
        weights_B_T = torch.where(mask, ratios_B_T.clamp(max=self.cap), 0.0)
        metrics = {"mean_weight": mean_weight(weights_B_T, mask), "truncated": share(ratios_B_T > self.cap, mask)}
        return weights_B_T.to(old_logprobs.dtype), metrics


@attrs.frozen
class IcePop(SamplerCorrection):
    """Drop tokens whose ratio leaves a window: ``w = r if low <= r <= high else 0``.

    ``r = exp(old_logprob - sampler_logprob)``. [B, T] x 3 -> [B, T], zero off the mask, without gradient. Unlike
    ``tis`` it drops a token that the two models disagree about in either direction, instead of trusting a bounded
    share of it. A dropped token still counts in the normalisation of the loss.

    Metrics: ``mean_weight`` over sampled tokens, ``masked`` (share of sampled tokens that are dropped).

    Source: IcePop, Ling team 2025, and INTELLECT-3 (arXiv 2512.16144, equation 1), whose sum is divided by all tokens;
    bounds as in NeMo-RL and OpenRLHF (0.5 and 5). TRL's ``token_mask``.
    """

    low: float = attrs.field(default=0.5, validator=validators.ge(0))
    """Smallest ratio that counts."""
    high: float = attrs.field(default=5.0)
    """Largest ratio that counts."""

    @high.validator
    def _not_below_low(self, attribute: Any, value: float) -> None:
        if not value > self.low:
            raise ValueError(f"high must be more than low, {self.low}, got {value}")

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        ratios_B_T = ratios(token_log_ratios(old_logprobs, sampler_logprobs, mask))
        kept_B_T = (ratios_B_T >= self.low) & (ratios_B_T <= self.high)
        weights_B_T = torch.where(mask & kept_B_T, ratios_B_T, 0.0)
        metrics = {"mean_weight": mean_weight(weights_B_T, mask), "masked": share(~kept_B_T, mask)}
        return weights_B_T.to(old_logprobs.dtype), metrics


def mean_weight(weights_B_T: Tensor, mask_B_T: Tensor) -> float:
    """Average the weights of the sampled tokens; 0 without any."""
    return float(weights_B_T[mask_B_T].mean()) if bool(mask_B_T.any()) else 0.0
