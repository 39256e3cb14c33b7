"""These estimators compare episodes within their group, and make up for how rare success is there or in the batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
import torch
from attrs.validators import and_, ge, gt, instance_of, lt
from torch import Tensor

from ..groups import group_sum
from .outcome import GroupEstimator, Outcomes


@attrs.frozen
class MaxRl(GroupEstimator):
    """The advantage is the score of the episode above the mean of its group, divided by that mean.

    A = (s - mean) / (mean + eps) on every sampled token. With rewards 0 and 1 a success in a group with success rate p
    gets 1 / p - 1, so that rare successes count as much as in maximum likelihood. Rewards must not be negative: a group
    whose mean is not above 0 gets 0. Episodes, returns, equal scores and groups of one (A = 0) as in ``grpo``.

    Source: MaxRL, Tajwar et al. 2026 (arXiv 2602.02710); eps 1e-6 as in SkyRL, which gives a group of one the raw score
    and divides by a negative mean, too. prime-rl has no eps, and 0 for a mean that is not positive.
    """

    eps: float = attrs.field(default=1e-6, validator=and_(ge(0.0), lt(math.inf)))
    """Number added to the mean, in reward units."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why it cannot work: it divides by the mean of a group, which normalised rewards do not have."""
        if (normalization := experiment.reward.normalization) != "identity":
            yield (
                f"divides by the mean reward of a group, which must be above 0, and reward.normalization is "
                f"{normalization}, which makes means of 0 or less: set it to identity"
            )

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        mean_P = outcomes.mean_P()
        above_B = outcomes.above(mean_P) / outcomes.per_row(torch.where(mean_P > 0, mean_P + self.eps, 1.0))
        return torch.where(outcomes.per_row(mean_P) > 0, above_B, 0.0)


@attrs.frozen
class PassAtK(GroupEstimator):
    """The advantage is how far the best episode of a group is above the second best; all others get 0.

    A = (s - second) / (std + eps) on every sampled token of the one best episode, with the std of its group. Where two
    episodes share the best score, all get 0, and so does a group of one (verl 0.9.1 raises an error).
    Episodes and returns as in ``grpo``. The score of an episode whose rows have scores of their own is their mean.

    Source: Tang et al. 2025 (arXiv 2503.19595), as in verl 0.9.1 (``grpo_passk``), with eps 1e-6 and the std of ddof 1.
    """

    scale: bool = attrs.field(default=True, validator=instance_of(bool))
    """Whether to divide by the std of the group."""
    eps: float = attrs.field(default=1e-6, validator=and_(ge(0.0), lt(math.inf)))
    """Number added to the std, in reward units."""

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        scores_E, index_E = outcomes.episode_mean(outcomes.scores_B), outcomes.index_E
        best_P = _largest(scores_E, index_E, outcomes.P)
        is_best_E = scores_E == best_P[index_E]
        second_P = _largest(scores_E.masked_fill(is_best_E, -math.inf), index_E, outcomes.P)
        # two that share the best score are no better than each other; nor is the only one of its group than nobody
        alone_P = (group_sum(is_best_E.double(), index_E, outcomes.P) == 1) & (outcomes.n_P > 1)
        lead_P = torch.where(alone_P, best_P - second_P, 0.0)
        if self.scale:
            std_P = outcomes.std_P(ddof=1)
            lead_P = lead_P / torch.where(std_P > 0, std_P + self.eps, 1.0)
        return torch.where(is_best_E, lead_P[index_E], 0.0)[outcomes.episode_B]


@attrs.frozen
class Gpg(GroupEstimator):
    """The advantage is the score above the mean of the group, made larger the fewer episodes of the batch are rewarded.

    A = alpha * (s - mean) / f_norm on every sampled token, with alpha = E / max(1, episodes whose score is not 0), E
    episodes in the batch. Episodes, returns, equal scores and groups of one (A = 0; verl 0.9.1 gives alpha times the
    raw score) as in ``grpo``. The policy loss ``gpg`` goes with it.

    Source: GPG, Chu et al. 2025 (arXiv 2504.02546), as in verl 0.9.1 (``gpg``). There, as here, alpha counts scores
    that are not 0: it depends on where the rewards have their zero, and with rewards 1 and -1 it is 1. verl also counts
    rows without sampled tokens, which here belong to no statistic.
    """

    f_norm: float = attrs.field(default=1.0, validator=and_(gt(0.0), lt(math.inf)))
    """Number that advantages are divided by."""

    def row_advantages(self, outcomes: Outcomes) -> Tensor:
        rewarded = outcomes.episode_mean((outcomes.scores_B != 0).double()).sum().clamp(min=1)
        return outcomes.above(outcomes.mean_P()) * (len(outcomes.index_E) / rewarded / self.f_norm)


def _largest(x_E: Tensor, index_E: Tensor, P: int) -> Tensor:
    """Return the largest member of each group: [P]."""
    return x_E.new_full((P,), -math.inf).scatter_reduce(0, index_E, x_E, "amax")
