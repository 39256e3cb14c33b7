"""Generalised advantage estimation over the sampled tokens."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import and_, ge, instance_of, le
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

    Source: Schulman et al. 2016 (arXiv 1506.02438); the masked recursion is that of verl 0.6.1 and RAGEN-2, which also
    leave numbers on observation tokens where this is zero.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"values"})

    gamma: float = attrs.field(default=1.0, validator=FRACTION)
    """Discount per sampled token, 0 to 1."""
    lam: float = attrs.field(default=1.0, validator=FRACTION)
    """Lambda, 0 to 1: 0 trusts the critic's value of the next token, 1 trusts only the rewards."""
    whiten: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether advantages get mean 0 and variance 1 over the sampled tokens of the batch."""

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        values_N = tokens.take(required(batch.values, "values", "gae"))
        advantages_N = gae(tokens.take(batch.rewards), values_N, tokens.rows_R, self.gamma, self.lam)
        return Advantages(
            tokens.place(whiten(advantages_N) if self.whiten else advantages_N, like=batch.rewards),
            tokens.place(advantages_N + values_N, like=batch.rewards),
        )


def gae(rewards_N: Tensor, values_N: Tensor, lengths_R: Tensor, gamma: float, lam: float) -> Tensor:
    """Compute the advantages of flat sampled tokens, [N]; nothing is carried across the end of a run."""
    delta_N = values_N.roll(-1).mul_(gamma)
    delta_N[lengths_R.cumsum(0) - 1] = 0.0
    delta_N.add_(rewards_N).sub_(values_N)
    return discounted_sums(delta_N, lengths_R, gamma * lam)
