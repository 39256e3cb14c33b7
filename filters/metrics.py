"""Group metrics: rollouts -> one score per group, in the order of ``rollouts.group_ids_P``.

Each episode counts once, however many rows it has, and belongs to a group by its id.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs
from torch import Tensor

from ..core.components import GroupMetric, Rollouts
from ..core.errors import RunError
from ..estimators.groups import group_index, group_mean, group_std, group_sum


def episode_groups(rollouts: Rollouts) -> tuple[Tensor, int]:
    """[E] place of each episode's group in ``rollouts.group_ids_P``, and how many groups there are."""
    ids_P, index_E = group_index(rollouts.groups_of_episodes(), rollouts.group_ids_P)
    return index_E, len(ids_P)


def episode_lengths(rollouts: Rollouts) -> Tensor:
    """[E] sampled tokens of each episode, over all of its rows."""
    return group_sum(rollouts.mask.sum(1), rollouts.episodes, len(rollouts.raw_rewards_E))


def episode_entropies(rollouts: Rollouts) -> Tensor:
    """[E] nats: mean over the episode's rows of the row's mean token entropy (0 for a row without sampled tokens)."""
    if rollouts.entropies is None:
        raise RunError(
            "the rollouts carry no token entropies",
            "rollouts.entropies",
            "a component that reads them declares needs = {'entropies'}",
        )
    mask = rollouts.mask.to(rollouts.entropies.dtype)
    mean_B = (rollouts.entropies * mask).sum(1) / mask.sum(1).clamp(min=1)
    return group_mean(mean_B, rollouts.episodes, len(rollouts.raw_rewards_E))


def _spread(x_E: Tensor, rollouts: Rollouts, ddof: int, squared: bool) -> Tensor:
    std_P = group_std(x_E, *episode_groups(rollouts), ddof=ddof)
    return std_P.square() if squared else std_P


@attrs.frozen
class RewardVariance(GroupMetric):
    """Standard deviation of the episode rewards in the group. The name is the field's; the score is the deviation.

    ``s_g = sqrt(sum_i (r_i - mean r)^2 / (G - ddof))`` over the group's G episodes, in reward units. Rewards are raw:
    the format penalty is in them, no normalisation is. Equal rewards give exactly 0, and so does a group of one (in
    RAGEN that is NaN and empties the batch).

    Which groups ``top_p`` keeps depends on whether the mass is the deviation or the variance: ``squared`` scores the
    variance itself, which is what the text of the RAGEN-2 paper describes, while its code scores the deviation.
    """

    ddof: Literal[0, 1] = attrs.field(default=1, validator=attrs.validators.in_((0, 1)))
    """1 divides by G - 1, 0 by G."""
    squared: bool = False
    """Score the variance (reward units squared) and not the standard deviation."""
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] in reward units."""
        return _spread(rollouts.raw_rewards_E, rollouts, self.ddof, self.squared)


@attrs.frozen
class Reward(GroupMetric):
    """Mean raw episode reward of the group, format penalty included. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] in reward units."""
        return group_mean(rollouts.raw_rewards_E, *episode_groups(rollouts))


@attrs.frozen
class RewardSum(GroupMetric):
    """Sum of the group's raw episode rewards, format penalty included. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] in reward units."""
        return group_sum(rollouts.raw_rewards_E, *episode_groups(rollouts))


@attrs.frozen
class Entropy(GroupMetric):
    """Mean over the group's episodes of the episode's mean token entropy, in nats.

    An episode of several rows (turn-level context windows) is the mean of its rows. Costs a pass of the policy over all
    rollouts before the filter. Source: RAGEN-2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] nats. Raises RunError when the rollouts carry no entropies."""
        return group_mean(episode_entropies(rollouts), *episode_groups(rollouts))


@attrs.frozen
class EntropyVariance(GroupMetric):
    """Standard deviation over the group's episodes of the episode's mean token entropy, in nats.

    As with ``reward_variance`` the name says variance and the score is the deviation; 0 for a group of one. Costs a
    pass of the policy over all rollouts before the filter. Source: RAGEN-2.
    """

    ddof: Literal[0, 1] = attrs.field(default=1, validator=attrs.validators.in_((0, 1)))
    """1 divides by G - 1, 0 by G."""
    squared: bool = False
    """Score the variance (nats squared) and not the standard deviation."""
    needs: ClassVar[frozenset[str]] = frozenset({"groups", "entropies"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] nats. Raises RunError when the rollouts carry no entropies."""
        return _spread(episode_entropies(rollouts), rollouts, self.ddof, self.squared)


@attrs.frozen
class Length(GroupMetric):
    """Mean number of sampled tokens of the group's episodes, over all rows of an episode. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] tokens."""
        return group_mean(episode_lengths(rollouts), *episode_groups(rollouts))
