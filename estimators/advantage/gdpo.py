"""GDPO compares each of several rewards within its group before it adds them up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, gt, in_, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, Advantages, CreditInputs
from ...core.errors import RunError
from ..groups import group_index, group_mean, group_std
from .sampled_tokens import SampledTokens, discounted_sums, whiten

ROUNDING = 1e-9
"""The largest spread of sums of standardised rewards, for each unit of weight, that still counts as none."""


@attrs.frozen
class Gdpo(AdvantageEstimator):
    """The advantage is the sum of several rewards, each standardised within its group, whitened over the batch.

    For the rewards k that the environment names: z_k = (r_k - mean) / (std + eps) within the group of the episode, std
    with ddof 1; z = sum_k weight_k z_k; A = (z - mean) / (std + eps) over the episodes of the batch, on every sampled
    token. So a reward with a small spread, or one that few episodes get, counts as much as the others, where ``grpo``
    compares the sum alone. Format penalties are one more reward, with the weight 1. returns: undiscounted rewards to go
    of the weighted sum, in reward units. [B, T], zero off the mask.

    A reward that is equal in a whole group adds exactly 0 to its members, and so does a group of one, but A is then the
    small offset that the mean of the batch leaves. If all z are equal, A is 0.

    ``over=tokens`` takes mean and variance over the sampled tokens: A = (z - mean) / sqrt(var + 1e-8), as verl does.

    Source: GDPO (arXiv 2601.05242). verl 0.9.1 (``gdpo``, tokens, eps 1e-6; it gives a group of one its raw reward) and
    TRL 1.16.0 (``normalize_then_sum``, episodes, eps 1e-4).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"groups", "rewards_by_name"})

    over: Literal["episodes", "tokens"] = attrs.field(default="episodes", validator=in_(("episodes", "tokens")))
    """What the whitening counts: each episode once, as in the paper, or each sampled token."""
    eps: float = attrs.field(default=1e-6, validator=and_(gt(0.0), lt(math.inf)))
    """Number added to each standard deviation."""

    def compute(self, batch: CreditInputs) -> Advantages:
        """Return the credit. Raises RunError if there are fewer than two rewards."""
        if len(batch.rewards_by_name) < 2:
            raise RunError(
                f"gdpo was given {len(batch.rewards_by_name)} rewards by name, and compares at least two",
                "compute() of the advantage estimator",
                "pass rewards_by_name=, or choose grpo",
            )
        tokens = SampledTokens.of(batch.mask)
        episodes_B = torch.arange(len(batch.groups)) if batch.episodes is None else batch.episodes
        # of B' rows that have sampled tokens, and their E' episodes
        episodes_b = episodes_B[tokens.lengths_B > 0]
        ids_e, index_b = torch.unique(episodes_b, return_inverse=True)
        groups_e = torch.zeros_like(ids_e)
        groups_e[index_b] = batch.groups[tokens.lengths_B > 0]
        sums_e = self._sums({name: x_E[ids_e] for name, x_E in batch.rewards_by_name.items()}, groups_e, batch)
        if self.over == "episodes" and len(sums_e) > 1:
            sums_e = (sums_e - sums_e.mean()) / (sums_e.std() + self.eps)
        advantages_N = sums_e[index_b].repeat_interleave(tokens.rows_R)
        if self.over == "tokens":
            advantages_N = whiten(advantages_N)
        returns_N = discounted_sums(tokens.take(batch.rewards), tokens.rows_R, 1.0)
        return Advantages(tokens.place(advantages_N, like=batch.rewards), tokens.place(returns_N, like=batch.rewards))

    def _sums(self, rewards_e: Mapping[str, Tensor], groups_e: Tensor, batch: CreditInputs) -> Tensor:
        """Return the weighted sums z of the standardised rewards, [E'] float64, all 0 where they are equal."""
        ids_P, index_e = group_index(groups_e)
        sums_e = torch.zeros(len(groups_e), dtype=torch.float64)
        largest = 0.0
        for name, x_e in rewards_e.items():
            weight = batch.reward_weights.get(name, 1.0)
            x_e = x_e.double()
            std_P = group_std(x_e, index_e, len(ids_P))
            above_e = x_e - group_mean(x_e, index_e, len(ids_P))[index_e]
            # where std is 0, so is every reward above the mean
            sums_e += weight * above_e / torch.where(std_P > 0, std_P + self.eps, 1.0)[index_e]
            largest += abs(weight)
        # rewards that cancel each other leave rounding noise, which a small eps would blow up
        equal = not len(sums_e) or float(sums_e.max() - sums_e.min()) <= ROUNDING * largest
        return torch.zeros_like(sums_e) if equal else sums_e
