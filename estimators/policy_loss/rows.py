"""Losses whose ratio is one of the whole row: GSPO, LUSPO, GMPO, VESPO. A row is an episode, or a turn of one."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import attrs
import torch
from torch import Tensor

from ...core.components import LossInputs, LossOutput, PolicyLoss
from .ratios import LOG_RATIO_LIMIT, NOT_NEGATIVE, advantages_of, log_ratio_of, logprobs_of, policy_kl, row_mean, share

ROW_LOG_RATIO_LIMIT = 10.0
"""Nats that a row's mean log-ratio is held to from above, as in verl."""


@attrs.frozen
class Gspo(PolicyLoss):
    """The clipped loss on the geometric mean of a row's ratios.

    ``s = exp(mean over the row's tokens of (log pi - log pi_old))``, and ``loss = max(-A s, -A clip(s, 1 - clip_low,
    1 + clip_high))`` at each token. In value every token has the row's ``s``; its gradient flows through the token's
    own log-prob (``sg(s) pi / sg(pi)``), so that tokens with advantages of their own are told apart. The paper
    aggregates with ``seq-mean-token-mean``.

    Source: Zheng et al. 2025 (arXiv 2507.18071), with the bounds of its section 5; formula as in verl 0.9.1 (``gspo``);
    TRL 1.16.0 with ``importance_sampling_level="sequence"`` has the same gradient where a row has one advantage.
    """

    ratio_of: ClassVar[Literal["tokens", "rows"]] = "rows"

    clip_low: float = attrs.field(default=3e-4, validator=attrs.validators.ge(0))
    """The row's ratio stops counting below 1 minus this."""
    clip_high: float = attrs.field(default=4e-4, validator=attrs.validators.ge(0))
    """The row's ratio stops counting above 1 plus this."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        mask_B_T, advantages_B_T = inputs.mask, advantages_of(inputs)
        log_ratios_B_T, logprobs_B_T = log_ratio_of(inputs), logprobs_of(inputs)
        log_row_B_1 = row_mean(log_ratios_B_T.detach(), mask_B_T)
        ratios_B_T = (logprobs_B_T - logprobs_B_T.detach() + log_row_B_1).clamp(max=ROW_LOG_RATIO_LIMIT).exp()
        unclipped_B_T = -advantages_B_T * ratios_B_T
        clipped_B_T = -advantages_B_T * ratios_B_T.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss_B_T = torch.where(mask_B_T, torch.maximum(unclipped_B_T, clipped_B_T), 0.0)
        return LossOutput(
            loss_B_T,
            {
                "pg_clipfrac": share(clipped_B_T > unclipped_B_T, mask_B_T),
                "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T),
            },
        )


@attrs.frozen
class Luspo(Gspo):
    """GSPO's loss times the length of the row: long answers are no longer favoured or punished for being long.

    ``loss = |row| * GSPO's``, so that with ``seq-mean-token-mean`` each row counts the sum of its tokens rather than
    their mean.

    Source: arXiv 2602.05261; TRL 1.16.0 ``loss_type="luspo"`` with ``importance_sampling_level="sequence"``.
    """

    def __call__(self, inputs: LossInputs) -> LossOutput:
        loss_B_T, metrics = super().__call__(inputs)
        return LossOutput(loss_B_T * inputs.mask.sum(1, keepdim=True), metrics)


@attrs.frozen
class Gmpo(PolicyLoss):
    """The geometric mean of a row's clipped ratios: one wild token moves it little.

    Each token's log-ratio is clipped to [-clip_low, clip_high] where that makes the objective smaller (by the sign of
    its advantage), and ``loss = -mean(A) exp(mean of the clipped log-ratios)``, the same at every token of the row. The
    paper aggregates as ``seq-mean-token-mean`` does.

    Source: Zhao et al. 2025 (arXiv 2507.20673), with its bounds (e^-0.4, e^0.4); formula as in verl 0.9.1
    (``geo_mean``), which averages over all rows, those without a token included.
    """

    ratio_of: ClassVar[Literal["tokens", "rows"]] = "rows"
    spreads: ClassVar[bool] = True

    clip_low: float = attrs.field(default=0.4, validator=attrs.validators.ge(0))
    """Nats that a token's log-ratio counts below 0."""
    clip_high: float = attrs.field(default=0.4, validator=attrs.validators.ge(0))
    """Nats that a token's log-ratio counts above 0."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        mask_B_T, advantages_B_T = inputs.mask, advantages_of(inputs)
        log_ratios_B_T, sign_B_T = log_ratio_of(inputs), advantages_of(inputs).sign()
        held_B_T = log_ratios_B_T.clamp(-self.clip_low, self.clip_high)
        clipped_B_T = sign_B_T * torch.minimum(sign_B_T * log_ratios_B_T, sign_B_T * held_B_T)
        loss_B_1 = -row_mean(advantages_B_T, mask_B_T) * row_mean(clipped_B_T, mask_B_T).exp()
        outside_B_T = log_ratios_B_T != held_B_T
        metrics = {
            "pg_clipfrac": share(outside_B_T & (advantages_B_T > 0), mask_B_T),
            "pg_clipfrac_lower": share(outside_B_T & (advantages_B_T < 0), mask_B_T),
            "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T),
        }
        return LossOutput(torch.where(mask_B_T, loss_B_1, 0.0), metrics)


@attrs.frozen
class Vespo(PolicyLoss):
    """A policy gradient that a smooth function of the row's whole ratio weighs, in place of clipping.

    With ``w = prod over the row's tokens of pi / pi_old`` and ``phi(w) = exp(lambda (1 - w)) w^k``,
    ``loss = -sg(phi(w)) A log pi``; k and lambda depend on the sign of A. phi(1) = 1, and rows that have moved far
    either way lose their weight.

    Source: arXiv 2602.10693; formula and defaults as in TRL 1.16.0 (``loss_type="vespo"``), where a correction of the
    sampler is part of w; here ``correction`` multiplies the loss, as it does for every other loss.
    """

    ratio_of: ClassVar[Literal["tokens", "rows"]] = "rows"

    k_pos: float = attrs.field(default=2.0, validator=NOT_NEGATIVE)
    """Exponent k where the advantage is not negative."""
    lambda_pos: float = attrs.field(default=3.0, validator=[attrs.validators.ge(1e-4), attrs.validators.lt(math.inf)])
    """Decay lambda where the advantage is not negative."""
    k_neg: float = attrs.field(default=3.0, validator=NOT_NEGATIVE)
    """Exponent k where the advantage is negative."""
    lambda_neg: float = attrs.field(default=2.0, validator=[attrs.validators.ge(1e-4), attrs.validators.lt(math.inf)])
    """Decay lambda where the advantage is negative."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        mask_B_T, advantages_B_T = inputs.mask, advantages_of(inputs)
        log_ratios_B_T = log_ratio_of(inputs)
        # the least weight of a row that TRL tells from none
        log_w_B_1 = log_ratios_B_T.detach().sum(1, keepdim=True).clamp(math.log(1e-8), LOG_RATIO_LIMIT)
        weights_B_T = self._phi(log_w_B_1, advantages_B_T)
        loss_B_T = -weights_B_T * advantages_B_T * logprobs_of(inputs)
        return LossOutput(
            loss_B_T,
            {
                "vespo_weight": (weights_B_T[mask_B_T].sum(), mask_B_T.sum()),
                "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T),
            },
        )

    def _phi(self, log_w_B_1: Tensor, advantages_B_T: Tensor) -> Tensor:
        """[B, 1] log-weights and [B, T] advantages -> [B, T]: phi, computed from its logarithm."""
        good_B_T = advantages_B_T >= 0
        k_B_T = torch.where(good_B_T, self.k_pos, self.k_neg)
        decay_B_T = torch.where(good_B_T, self.lambda_pos, self.lambda_neg)
        log_phi_B_T = decay_B_T + k_B_T * log_w_B_1 - decay_B_T * log_w_B_1.exp()
        return log_phi_B_T.clamp(max=LOG_RATIO_LIMIT).exp()
