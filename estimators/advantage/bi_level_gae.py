"""Generalised advantage estimation over turns, then over the tokens inside each turn."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import instance_of

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from .gae import FRACTION, gae
from .sampled_tokens import SampledTokens, required, whiten


@attrs.frozen
class BiLevelGae(AdvantageEstimator):
    """Compute GAE over the turns, whose result then is the reward of GAE over the tokens of each turn.

    1. A turn ends at its last sampled token. 2. Over the turn ends of a row, with the rewards and values that stand
    there: A_turn = r + high_level_gamma * V_next_turn - V + high_level_gamma * lam * A_next_turn. 3. The reward of each
    turn end becomes A_turn + V. 4. Inside each turn, GAE with gamma and lam; nothing is carried across its end.
    returns = A + V before whitening. Everything is [B, T] in reward units and zero off the mask. Whitening and its
    edge cases are those of ``gae``.

    Source: the intended algorithm of RAGEN-2. There, turn ends are taken to be the positions with a reward other than
    0, so that a turn whose reward is exactly 0 disappears; here they come from ``turns``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"values", "turns"})

    gamma: float = attrs.field(default=1.0, validator=FRACTION)
    """Discount per sampled token inside a turn, 0 to 1."""
    lam: float = attrs.field(default=1.0, validator=FRACTION)
    """Lambda of both levels, 0 to 1."""
    high_level_gamma: float = attrs.field(default=0.95, validator=FRACTION)
    """Discount per turn, 0 to 1."""
    whiten: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether advantages get mean 0 and variance 1 over the sampled tokens of the batch."""

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        rewards_N = tokens.take(batch.rewards)
        values_N = tokens.take(required(batch.values, "values", "bi_level_gae"))
        turns_N = tokens.take(required(batch.turns, "turns", "bi_level_gae"))
        turns_R, turns_per_row = tokens.turns_R(turns_N)

        ends_R = turns_R.cumsum(0) - 1
        high_level_R = gae(rewards_N[ends_R], values_N[ends_R], turns_per_row, self.high_level_gamma, self.lam)
        rewards_N[ends_R] = high_level_R + values_N[ends_R]

        advantages_N = gae(rewards_N, values_N, turns_R, self.gamma, self.lam)
        return Advantages(
            tokens.place(whiten(advantages_N) if self.whiten else advantages_N, like=batch.rewards),
            tokens.place(advantages_N + values_N, like=batch.rewards),
        )
