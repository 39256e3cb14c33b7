"""A baseline of its own for each token: the one of least variance for what the gradient has gathered until there."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from attrs.validators import and_, ge, instance_of, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from ..groups import group_count, group_index, group_mean, group_sum
from .sampled_tokens import SampledTokens, discounted_sums, required


@attrs.frozen
class Otb(AdvantageEstimator):
    """The advantage is the reward to go above a baseline that the rows of a group share at each token.

    A_t = G_t - sum(W_t G_t) / (sum(W_t) + eps): G_t is the undiscounted reward to go of the row's t-th sampled token,
    the sums are over the rows of the group that have so many, and W_t adds up 1 - 2 p + sum_v p_v^2 over the tokens up
    to t. That is the squared length of the gradient of log p by the logits, p being the sampled token's probability.
    returns: G. [B, T] in reward units, zero off the mask.

    Rows are compared as they are, also where an episode has several. Where all rewards to go are equal, A is exactly 0,
    and so it is in a group of one (verl: G). The last tokens of a row that is longer than all others of its group have
    nothing to compare with; ``zero_tail`` says what becomes of them.

    Source: arXiv 2602.07078, as in verl 0.9.1 with its eps of 1e-8. This is its ``tir_optimal_token_baseline``, which
    counts sampled tokens; ``optimal_token_baseline`` counts positions, observations included, and is the same where
    rows have a single turn. Weights of a sampler correction do not enter W here, as they may there.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"groups", "logprobs", "collision_probs"})

    zero_tail: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether tokens that no other row of the group can be compared with have baseline 0, so that A = G; else A = 0."""
    eps: float = attrs.field(default=1e-8, validator=and_(ge(0.0), lt(1.0)))
    """Number added to the sum of the weights."""

    def compute(self, batch: CreditInputs) -> Advantages:
        tokens = SampledTokens.of(batch.mask)
        returns_N = discounted_sums(tokens.take(batch.rewards), tokens.rows_R, 1.0)
        probs_N = tokens.take(required(batch.logprobs, "logprobs", "otb")).exp()
        collisions_N = tokens.take(required(batch.collision_probs, "collision_probs", "otb"))
        # of fp32 numbers it may be a little below 0 where p is 1
        energy_N = _sums_until((1 - 2 * probs_N + collisions_N).clamp(min=0), tokens.rows_R)
        baselines_N = self._baselines(returns_N, energy_N, tokens, batch.groups)
        return Advantages(
            tokens.place(returns_N - baselines_N, like=batch.rewards), tokens.place(returns_N, like=batch.rewards)
        )

    def _baselines(self, returns_N: Tensor, energy_N: Tensor, tokens: SampledTokens, groups_B: Tensor) -> Tensor:
        """Return the baseline of each token: [N]."""
        ids_P, group_B = group_index(groups_B)
        sampled_B = tokens.lengths_B > 0
        is_alone_P = group_count(group_B[sampled_B], len(ids_P)) == 1
        group_N, longest = tokens.per_token(group_B), int(tokens.lengths_B.max()) if len(groups_B) else 0
        # what is compared is the t-th sampled token of all rows of a group
        place_N = group_N * longest + _sums_until(torch.ones_like(returns_N), tokens.rows_R).long() - 1
        places = len(ids_P) * longest
        mean_N = group_mean(returns_N, place_N, places)[place_N]
        # as a correction of the plain mean, it is exactly that where all are equal
        above = group_sum(energy_N * (returns_N - mean_N), place_N, places)
        weighted_N = mean_N + (above / (group_sum(energy_N, place_N, places) + self.eps).clamp(min=1e-300))[place_N]
        if not self.zero_tail:
            return weighted_N
        has_peers_N = (group_count(place_N, places)[place_N] > 1) | is_alone_P[group_N]
        return torch.where(has_peers_N, weighted_N, 0.0)


def _sums_until(x_N: Tensor, lengths_R: Tensor) -> Tensor:
    """Sum from the start of each run to each of its tokens, itself included: [N]."""
    sums_N = x_N.cumsum(0)
    before_R = torch.nn.functional.pad(sums_N, (1, 0))[lengths_R.cumsum(0) - lengths_R]
    return sums_N - before_R.repeat_interleave(lengths_R)
