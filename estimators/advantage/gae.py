"""Generalised advantage estimation over the sampled tokens."""

from __future__ import annotations

import math
from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, gt, instance_of, le, lt, optional
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from .sampled_tokens import SampledTokens, discounted_sums, required, whiten

FRACTION = and_(ge(0.0), le(1.0))


@attrs.frozen
class Gae(AdvantageEstimator):
    """Estimate advantages from rewards and the critic's values (GAE), skipping over observation tokens.

    delta_t = r_t + gamma * V_next - V_t and A_t = delta_t + gamma * lam * A_next, where *next* is the next **sampled**
    token of the row (V_next = A_next = 0 after the last one): tokens that the policy did not sample neither discount
    nor bootstrap. returns = A + V before whitening. Everything is [B, T] in reward units and zero off the mask, where
    rewards and values are not even read; gamma and lam act per sampled token. Computed in float64, in blocks, without
    a loop over tokens.

    Whitening: (A - mean) / sqrt(var + 1e-8) over all sampled tokens of the batch, with the unbiased variance. With
    fewer than two sampled tokens, or when all advantages are equal, the whitened advantages are 0.

    The critic may learn with a lambda of its own (``critic_lam``), and the policy's may grow with the length
    (``length_alpha``): VC-PPO is ``gae(lam=0.95, critic_lam=1.0)``, VAPO ``gae(critic_lam=1.0, length_alpha=0.05)``.

    Source: Schulman et al. 2016 (arXiv 1506.02438); the masked recursion is that of verl 0.6.1 and RAGEN-2, which also
    leave numbers on observation tokens where this is zero. Two lambdas: VC-PPO, Yuan et al. 2025 (arXiv 2503.01491). By
    length: VAPO, Yue et al. 2025 (arXiv 2504.05118), whose lambda would be negative in rows of fewer than 1 / alpha
    tokens (20); there it is 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"values"})

    gamma: float = attrs.field(default=1.0, validator=FRACTION)
    """Discount per sampled token, 0 to 1."""
    lam: float = attrs.field(default=1.0, validator=FRACTION)
    """Lambda, 0 to 1: 0 trusts the critic's value of the next token, 1 trusts only the rewards."""
    whiten: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether advantages get mean 0 and variance 1 over the sampled tokens of the batch."""
    critic_lam: float | None = attrs.field(default=None, validator=optional(FRACTION))
    """Lambda of the returns that the critic learns, 0 to 1; ``null`` takes ``lam``."""
    length_alpha: float | None = attrs.field(default=None, validator=optional(and_(gt(0.0), lt(math.inf))))
    """Number alpha that makes the advantages' lambda 1 - 1 / (alpha l) in a row of l sampled tokens, at least 0 (VAPO:
    0.05); ``null`` takes ``lam``, which with it is only what the critic falls back to."""

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        values_N = tokens.take(required(batch.values, "values", "gae"))
        rewards_N = tokens.take(batch.rewards)
        critic_lam = self.lam if self.critic_lam is None else self.critic_lam
        of_critic_N = gae(rewards_N, values_N, tokens.rows_R, self.gamma, critic_lam)
        advantages_N = of_critic_N
        if self.length_alpha is not None:
            advantages_N = _by_length(rewards_N, values_N, tokens.rows_R, self.gamma, self.length_alpha)
        elif critic_lam != self.lam:
            advantages_N = gae(rewards_N, values_N, tokens.rows_R, self.gamma, self.lam)
        return Advantages(
            tokens.place(whiten(advantages_N) if self.whiten else advantages_N, like=batch.rewards),
            tokens.place(of_critic_N + values_N, like=batch.rewards),
        )


def _by_length(rewards_N: Tensor, values_N: Tensor, lengths_R: Tensor, gamma: float, alpha: float) -> Tensor:
    """Compute advantages whose lambda depends on the length of their run: [N]."""
    parts, start = [rewards_N[:0]], 0
    for length in lengths_R.tolist():
        run = slice(start, start + length)
        lam = max(0.0, 1 - 1 / (alpha * length))
        parts.append(gae(rewards_N[run], values_N[run], lengths_R.new_tensor([length]), gamma, lam))
        start += length
    return torch.cat(parts)


def gae(rewards_N: Tensor, values_N: Tensor, lengths_R: Tensor, gamma: float, lam: float) -> Tensor:
    """Compute the advantages of flat sampled tokens, [N]; nothing is carried across the end of a run."""
    delta_N = values_N.roll(-1).mul_(gamma)
    delta_N[lengths_R.cumsum(0) - 1] = 0.0
    delta_N.add_(rewards_N).sub_(values_N)
    return discounted_sums(delta_N, lengths_R, gamma * lam)
