"""REINFORCE++ normalises returns over the whole batch, with or without a group baseline."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from .gae import FRACTION
from .outcome import Outcomes
from .sampled_tokens import SampledTokens, discounted_sums, whiten


@attrs.frozen
class ReinforcePlusPlus(AdvantageEstimator):
    """The advantage is the discounted reward to go, whitened over the batch; it needs neither critic nor groups.

    R_t = r_t + gamma * R_next, where *next* is the next sampled token of the row; A = (R - mean) / sqrt(var + 1e-8)
    over all sampled tokens of the batch, with the unbiased variance (0 for fewer than two tokens or equal returns).
    returns = R, in reward units. [B, T], zero off the mask.

    Source: REINFORCE++, Hu et al. 2025 (arXiv 2501.03262). verl 0.6.1 sets the carried return to 0 at every token off
    the mask, so that with several turns no reward reaches the turns before it; here observations are skipped over.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    gamma: float = attrs.field(default=1.0, validator=FRACTION)
    """Discount per sampled token, 0 to 1."""

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        returns_N = discounted_sums(tokens.take(batch.rewards), tokens.rows_R, self.gamma)
        return Advantages(
            tokens.place(whiten(returns_N), like=batch.rewards), tokens.place(returns_N, like=batch.rewards)
        )


@attrs.frozen
class ReinforcePlusPlusBaseline(AdvantageEstimator):
    """The advantage is the score of the episode above the mean of its group, whitened over the batch.

    s - mean on every sampled token (each episode counts once in the mean), then (x - mean) / sqrt(var + 1e-8) over all
    sampled tokens of the batch, with the unbiased variance (0 for fewer than two tokens or equal values). Whitening
    weighs episodes by their lengths, so a group whose scores are all equal, or a group of one, ends at the same small
    offset, not at 0. returns: undiscounted rewards to go, in reward units. [B, T], zero off the mask.

    Source: REINFORCE++, Hu et al. 2025 (arXiv 2501.03262), as in verl 0.6.1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        outcomes = Outcomes.of(tokens, batch.rewards, batch.groups, batch.episodes)
        advantages_N = whiten(outcomes.above(outcomes.mean_P()).repeat_interleave(tokens.rows_R))
        returns_N = discounted_sums(tokens.take(batch.rewards), tokens.rows_R, 1.0)
        return Advantages(tokens.place(advantages_N, like=batch.rewards), tokens.place(returns_N, like=batch.rewards))
