"""Losses that let a token count, or not, by how far its probability has moved: SAPO, DPPO, M2PO."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from ...core.components import LossInputs, LossOutput, PolicyLoss
from .clipped import Ppo
from .ratios import POSITIVE, advantages_of, log_ratio_of, logprobs_of, policy_kl, share


@attrs.frozen
class Sapo(PolicyLoss):
    """A soft gate in place of the clip: the gradient fades as the ratio leaves 1.

    ``loss = -A sigmoid(tau (r - 1)) 4 / tau`` with ``r = pi / pi_old`` and tau by the sign of A. The gate's slope is 1
    at r = 1. The paper aggregates with ``seq-mean-token-mean``.

    Source: arXiv 2511.20347; formula and defaults as in verl 0.9.1 (``sapo``) and TRL 1.16.0 (``loss_type="sapo"``).
    """

    tau_pos: float = attrs.field(default=1.0, validator=POSITIVE)
    """Sharpness of the gate where A > 0."""
    tau_neg: float = attrs.field(default=1.05, validator=POSITIVE)
    """Sharpness of the gate elsewhere: a little more, since bad tokens are the less stable ones."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        log_ratios_B_T, advantages_B_T = log_ratio_of(inputs), advantages_of(inputs)
        tau_B_T = torch.where(advantages_B_T > 0, self.tau_pos, self.tau_neg)
        gate_B_T = torch.sigmoid(tau_B_T * (log_ratios_B_T.exp() - 1)) * 4 / tau_B_T
        return LossOutput(-gate_B_T * advantages_B_T, {"ppo_kl": policy_kl(log_ratios_B_T, inputs.mask)})


class _Dppo(PolicyLoss):
    """Divergence PPO: a token trains while the divergence of its own probability stays within a bound."""

    __slots__ = ()

    clip_low: float
    clip_high: float
    max_ratio: float

    needs = frozenset({"sampler_logprobs"})
    corrects: ClassVar[bool] = True

    @abstractmethod
    def divergence(self, logprobs_B_T: Tensor, sampler_logprobs_B_T: Tensor) -> Tensor:
        """[B, T] nats, [B, T] nats -> [B, T]: how far the token's probability is from that of the sampler."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        assert inputs.sampler_logprobs is not None
        mask_B_T, advantages_B_T, logprobs_B_T = inputs.mask, advantages_of(inputs), logprobs_of(inputs)
        sampler_B_T = torch.where(mask_B_T, inputs.sampler_logprobs, 0.0)
        log_ratios_B_T = log_ratio_of(inputs, inputs.sampler_logprobs)
        with torch.no_grad():
            ratios_B_T = log_ratios_B_T.exp()
            moved_B_T = self.divergence(logprobs_B_T, sampler_B_T)
            # only a step that would go on in the direction in which the probability has moved is stopped
            above_B_T = (advantages_B_T > 0) & (logprobs_B_T > sampler_B_T) & (moved_B_T > self.clip_high)
            below_B_T = (advantages_B_T <= 0) & (logprobs_B_T < sampler_B_T) & (moved_B_T > self.clip_low)
            stopped_B_T = above_B_T | below_B_T
            weights_B_T = torch.where(stopped_B_T, 0.0, ratios_B_T.clamp(max=self.max_ratio))
        metrics = {
            "pg_clipfrac": share(stopped_B_T, mask_B_T),
            "pg_clipfrac_lower": share(~stopped_B_T & (ratios_B_T > self.max_ratio), mask_B_T),
            "ppo_kl": policy_kl(log_ratios_B_T, mask_B_T),
        }
        return LossOutput(-weights_B_T * advantages_B_T * logprobs_B_T, metrics)


@attrs.frozen
class DppoTv(_Dppo):
    """Divergence PPO with the total variation of the token: stopped where its probability has moved too far.

    With mu the sampler's probability of the token, ``r = pi / mu`` and ``d = |pi - mu|``:
    ``loss = -sg(min(r, max_ratio)) A log pi``, and 0 where A > 0, pi > mu and d > clip_high, or A <= 0, pi < mu and
    d > clip_low. Likely tokens are held more tightly than by a ratio, unlikely ones less.

    Source: arXiv 2602.04879; formula as in verl 0.9.1 (``dppo_tv``) with the sampler's log-probs in the place of the
    old ones, and the bound 0.15 of its published recipe.
    """

    clip_low: float = attrs.field(default=0.15, validator=attrs.validators.ge(0))
    """How far the probability of a token whose advantage is not positive may fall."""
    clip_high: float = attrs.field(default=0.15, validator=attrs.validators.ge(0))
    """How far the probability of a token with a positive advantage may rise."""
    max_ratio: float = attrs.field(default=20.0, validator=attrs.validators.gt(1))
    """The largest weight of a token."""

    def divergence(self, logprobs_B_T: Tensor, sampler_logprobs_B_T: Tensor) -> Tensor:
        return (logprobs_B_T.exp() - sampler_logprobs_B_T.exp()).abs()


@attrs.frozen
class DppoKl(_Dppo):
    """Divergence PPO with the binary KL of the token: this token against all others.

    As ``dppo_tv``, with ``d = mu log(mu / pi) + (1 - mu) log((1 - mu) / (1 - pi))`` in nats.

    Source: arXiv 2602.04879; formula as in verl 0.9.1 (``dppo_kl``) with the sampler's log-probs in the place of the
    old ones, and the bound 0.05 of its published recipe.
    """

    clip_low: float = attrs.field(default=0.05, validator=attrs.validators.ge(0))
    """The largest divergence (nats) of a token whose advantage is not positive and whose probability has fallen."""
    clip_high: float = attrs.field(default=0.05, validator=attrs.validators.ge(0))
    """The largest divergence (nats) of a token with a positive advantage whose probability has risen."""
    max_ratio: float = attrs.field(default=20.0, validator=attrs.validators.gt(1))
    """The largest weight of a token."""

    def divergence(self, logprobs_B_T: Tensor, sampler_logprobs_B_T: Tensor) -> Tensor:
        probs_B_T, sampler_probs_B_T = logprobs_B_T.exp(), sampler_logprobs_B_T.exp()
        tiny = 1e-8  # verl's: a probability of 1 leaves nothing for the other tokens
        others_B_T = (1 - sampler_probs_B_T) * ((1 - sampler_probs_B_T + tiny) / (1 - probs_B_T + tiny)).log()
        return sampler_probs_B_T * (sampler_logprobs_B_T - logprobs_B_T) + others_B_T


@attrs.frozen
class M2po(Ppo):
    """PPO's loss without the stalest tokens: the second moment of the log-ratio to the sampler is kept within a bound.

    The tokens of an optimizer step with the largest ``(log pi_old - log mu)^2`` are left out, one after the other,
    until the mean over those that stay is below ``threshold``; the rest has PPO's loss. mu is what sampled a token and
    pi_old the policy at the beginning of the step: where the sampler is the policy itself, nothing is left out.

    Source: arXiv 2510.01161; as in AReaL (``m2_threshold``), which bounds each micro-batch by itself; here it is all
    rows of the optimizer step, so that no split changes the gradient. Tokens with the same value leave together.
    """

    threshold: float = attrs.field(default=0.04, validator=attrs.validators.gt(0))
    """The largest mean square (nats squared) of the log-ratio."""

    needs = frozenset({"sampler_logprobs", "logprobs"})

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        assert batch.sampler_logprobs is not None
        squares_B_T = log_ratio_of(attrs.evolve(batch, logprobs=batch.old_logprobs), batch.sampler_logprobs).square()
        ascending = squares_B_T[batch.mask].sort().values
        counts = torch.arange(1, len(ascending) + 1, device=ascending.device)
        ends = torch.ones_like(ascending, dtype=torch.bool)  # of equal values: they leave together
        ends[:-1] = ascending[1:] != ascending[:-1]
        within = (ends & (ascending.cumsum(0) / counts < self.threshold)).nonzero().flatten()
        # at least the token that has moved least stays, as in AReaL
        largest = ascending[within[-1]] if len(within) else ascending[:1].sum()
        return {"kept": (squares_B_T <= largest) & batch.mask}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        kept_B_T = inputs.prepared["kept"]
        loss_B_T, metrics = super().__call__(inputs)
        return LossOutput(
            torch.where(kept_B_T, loss_B_T, 0.0), {**metrics, "m2po_dropped": share(~kept_B_T, inputs.mask)}
        )
