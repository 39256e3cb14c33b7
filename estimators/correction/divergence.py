"""``sequence_divergence`` drops rows on which the trainer and the sampler disagree, whatever the direction.

A window on the product or the mean of a row's ratios, as ``sequence_mask`` has it, lets tokens that are off in
opposite directions cancel. What is summed, averaged or maximised here is never negative, so nothing cancels.
"""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators
from torch import Tensor

from ...core.components import SamplerCorrection
from .ratios import LOG_RATIO_LIMIT, row_log_ratios, token_log_ratios
from .sequence import weights_of_kept_rows
from .token import Weights


@attrs.frozen
class SequenceDivergence(SamplerCorrection):
    """Drop rows whose divergence is above a bound: ``w = v if D <= high else 0``.

    ``log r = old_logprob - sampler_logprob`` of each sampled token, clamped to +-20. A token's divergence is
    ``r - 1 - log r`` (``of: k3``) or ``(log r)^2 / 2`` (``k2``), in nats; D is its ``mean``, ``sum`` or ``max`` over
    the sampled tokens of the row. ``v`` is the weight of a token in a row that is kept: 1 (``weight: none``), its own r
    (``token``), or the row's product (``sequence``). [B, T] x 3 -> [B, T], zero off the mask, without gradient.
    Weights are not otherwise truncated. The tokens of a dropped row still count in the loss' normalisation.

    Metrics: ``mean_weight`` over sampled tokens, ``masked`` (share of rows that are dropped).

    Source: verl's rejection by ``seq_{mean,sum,max}_{k2,k3}``; the default is its ``k3_rs``. ``max`` is the masking of
    trust regions (arXiv 2512.23075), for which one token may speak for its row.
    """

    of: Literal["k2", "k3"] = attrs.field(default="k3", validator=validators.in_(("k2", "k3")))
    """Divergence of a token."""
    level: Literal["mean", "sum", "max"] = attrs.field(default="mean", validator=validators.in_(("mean", "sum", "max")))
    """What is made of the divergences of a row's tokens."""
    high: float = attrs.field(default=0.01, validator=validators.gt(0.0))
    """Largest divergence of a row that counts, in nats."""
    weight: Literal["none", "token", "sequence"] = attrs.field(
        default="none", validator=validators.in_(("none", "token", "sequence"))
    )
    """Weight of a token in a kept row: 1, its own ratio, or the product of the row's ratios."""

    @property
    def weighs(self) -> Literal["tokens", "rows"]:  # type: ignore[override]
        """What has a weight of its own."""
        return "tokens" if self.weight == "token" else "rows"

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Weights:
        log_ratios_B_T = token_log_ratios(old_logprobs, sampler_logprobs, mask)
        kept_B = self._row_divergences(log_ratios_B_T, mask) <= self.high
        weights_B_T, metrics = weights_of_kept_rows(log_ratios_B_T, kept_B, mask, self.weight)
        return weights_B_T.to(old_logprobs.dtype), metrics

    def _row_divergences(self, log_ratios_B_T: Tensor, mask_B_T: Tensor) -> Tensor:
        """[B] nats; 0 for a row without sampled tokens, as the log-ratios are 0 off the mask."""
        clamped_B_T = log_ratios_B_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        divergences_B_T = clamped_B_T.square() / 2 if self.of == "k2" else clamped_B_T.expm1() - clamped_B_T
        if self.level == "max":
            return divergences_B_T.amax(1)
        return row_log_ratios(divergences_B_T, mask_B_T, mean=self.level == "mean")
