"""These corrections look at whole rows: at the product of a row's token ratios, or at their geometric mean.

A row is an episode, or a turn in turn-level context windows. The product is the importance weight of the whole row:
untruncated it corrects for tokens and states alike, but its logarithm grows with the row's length.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import attrs
import torch
from attrs import validators
from torch import Tensor

from ...core.components import SamplerCorrection
from .ratios import ratios, row_log_ratios, share, token_log_ratios
from .token import Weights, mean_weight

BOUNDS = {"mean": (0.999, 1.002), "sum": (0.5, 2.0)}
"""Default window of :class:`SequenceMask`, by level."""


@attrs.frozen
class SequenceTis(SamplerCorrection):
    """Give each token the truncated importance weight of its row, ``min(R, cap)`` with ``R = exp(sum of log r)``.

    ``log r = old_logprob - sampler_logprob``, summed over the row's sampled tokens. [B, T] x 3 -> [B, T], zero off the
    mask, without gradient. The sum is clamped to +-20; ``cap: .inf`` truncates nothing else, and then the expected
    policy gradient is exactly that on the trainer's own samples.

    Metrics: ``mean_weight`` over sampled tokens, ``truncated`` (share of rows with R above the cap).

    Source: Liu et al. 2025, "When speed kills stability"; verl's ``rollout_is: sequence`` with its default of 2; TRL's
    ``sequence_truncate``, where the default is 3.
    """

    weighs: ClassVar[Literal["tokens", "rows"]] = "rows"

    cap: float = attrs.field(default=2.0, validator=validators.gt(0))
    """Largest weight that a row may have."""

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        log_ratios_B_T = token_log_ratios(old_logprobs, sampler_logprobs, mask)
        ratios_B = ratios(row_log_ratios(log_ratios_B_T, mask))
        weights_B_T = torch.where(mask, ratios_B.clamp(max=self.cap)[:, None], 0.0)
        truncated = share(ratios_B > self.cap, mask.any(1))
        return weights_B_T.to(old_logprobs.dtype), {
            "mean_weight": mean_weight(weights_B_T, mask),
            "truncated": truncated,
        }


@attrs.frozen
class SequenceMask(SamplerCorrection):
    """Drop rows whose ratio leaves a window: ``w = v if low <= S <= high else 0``.

    ``log r = old_logprob - sampler_logprob`` of each sampled token. ``S`` is the row's geometric mean of r
    (``level: mean``) or the product (``sum``), and ``v``, the weight of a token in a row that is kept, its own r
    (``weight: token``), the row's product (``sequence``), or 1 (``none``). [B, T] x 3 -> [B, T], zero off the mask,
    without gradient. Weights are clamped to exp(+-20) and not otherwise truncated. The geometric mean does not grow
    with the length of a row, the product does. The tokens of a dropped row still count in the loss' normalisation.

    Metrics: ``mean_weight`` over sampled tokens, ``masked`` (share of rows that are dropped).

    With its defaults it is ``seq-mask-tis`` of NeMo-RL and OpenRLHF with NeMo-RL's reference bounds;
    ``sequence_mask(sum, low=0, high=3, weight=sequence)`` is TRL's ``sequence_mask`` with its default bound, the masked
    importance sampling of Liu et al. 2025, "When speed kills stability"; ``weight=none`` is verl's rejection by
    ``geometric`` (``mean``) or ``sequence`` (``sum``), with its default bounds of 1/2 and 2 for the latter.
    """

    level: Literal["mean", "sum"] = "mean"
    """Quantity that must lie in the window: the geometric mean of the row's ratios, or their product (``sum``)."""
    low: float | None = attrs.field(default=None, validator=validators.optional(validators.ge(0)))
    """Smallest row ratio that counts; ``null`` is 0.999 for ``mean`` and 0.5 for ``sum``."""
    high: float | None = attrs.field(default=None, validator=validators.optional(validators.gt(0)))
    """Largest row ratio that counts; ``null`` is 1.002 for ``mean`` and 2 for ``sum``."""
    weight: Literal["token", "sequence", "none"] = "token"
    """Weight of a token in a kept row: its own ratio, the product of the row's ratios, or 1."""

    def __attrs_post_init__(self) -> None:
        low, high = self.bounds
        if not high > low:
            raise ValueError(f"high must be more than low, got low {low} and high {high} (level {self.level})")

    @property
    def weighs(self) -> Literal["tokens", "rows"]:  # type: ignore[override]
        """What has a weight of its own."""
        return "tokens" if self.weight == "token" else "rows"

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest row ratio that counts."""
        low, high = BOUNDS[self.level]
        return (low if self.low is None else self.low), (high if self.high is None else self.high)

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        log_ratios_B_T = token_log_ratios(old_logprobs, sampler_logprobs, mask)
        row_log_ratios_B = row_log_ratios(log_ratios_B_T, mask, mean=self.level == "mean")
        low, high = (math.log(bound) if bound else -math.inf for bound in self.bounds)
        kept_B = (row_log_ratios_B >= low) & (row_log_ratios_B <= high)
        weights_B_T, metrics = weights_of_kept_rows(log_ratios_B_T, kept_B, mask, self.weight)
        return weights_B_T.to(old_logprobs.dtype), metrics


def weights_of_kept_rows(
    log_ratios_B_T: Tensor, kept_B: Tensor, mask_B_T: Tensor, weight: Literal["none", "token", "sequence"]
) -> Weights:
    """Weigh the sampled tokens of kept rows: by 1, by their own ratio, or by the product of the row's ratios.

    Args:
        log_ratios_B_T: [B, T] float64 nats, 0 off the mask.
        kept_B: [B] bool.
        mask_B_T: [B, T] bool.
        weight: ``none`` weighs by 1.

    Returns:
        [B, T] float64 weights, zero off the mask and in dropped rows; ``mean_weight`` and ``masked``.
    """
    if weight == "token":
        values_B_T = ratios(log_ratios_B_T)
    elif weight == "sequence":
        values_B_T = ratios(row_log_ratios(log_ratios_B_T, mask_B_T))[:, None]
    else:
        values_B_T = torch.ones_like(log_ratios_B_T)
    weights_B_T = torch.where(mask_B_T & kept_B[:, None], values_B_T, 0.0)
    masked = share(~kept_B, mask_B_T.any(1))
    return weights_B_T, {"mean_weight": mean_weight(weights_B_T, mask_B_T), "masked": masked}
