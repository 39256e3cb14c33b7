"""ReMax takes the reward of the greedy answer as the baseline."""

from __future__ import annotations

from typing import ClassVar

import attrs

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from .sampled_tokens import SampledTokens, discounted_sums, required


@attrs.frozen
class Remax(AdvantageEstimator):
    """The advantage is the reward to go above the episode reward of a greedy rollout of the same task.

    A_t = (sum of the rewards from token t on) - greedy reward, on the sampled tokens; returns: the undiscounted rewards
    to go. [B, T] in reward units, zero off the mask. Needs one greedy episode per group (``greedy_rewards`` [B]).

    Source: ReMax, Li et al. 2024 (arXiv 2310.10505). RAGEN-2 lists the name and exits when it is asked for.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"greedy_rewards"})

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        greedy_B = required(batch.greedy_rewards, "greedy_rewards", "remax").double()
        returns_N = discounted_sums(tokens.take(batch.rewards), tokens.rows_R, 1.0)
        return Advantages(
            tokens.place(returns_N - tokens.per_token(greedy_B), like=batch.rewards),
            tokens.place(returns_N, like=batch.rewards),
        )
