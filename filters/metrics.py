"""Group metrics turn rollouts into one score per group, in the order of ``rollouts.group_ids_P``.

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
    """Return the position of each episode's group in ``rollouts.group_ids_P`` ([E]), and the number of groups."""
    ids_P, index_E = group_index(rollouts.groups_of_episodes(), rollouts.group_ids_P)
    return index_E, len(ids_P)


def episode_lengths(rollouts: Rollouts) -> Tensor:
    """Count the sampled tokens of each episode, over all of its rows: [E]."""
    return group_sum(rollouts.mask.sum(1), rollouts.episodes, len(rollouts.raw_rewards_E))


def episode_entropies(rollouts: Rollouts) -> Tensor:
    """Average the token entropies of each row, then the rows of each episode: [E] nats.

    A row without sampled tokens counts as 0.

    Raises:
        RunError: the rollouts carry no token entropies.
    """
    if rollouts.entropies is None:
        raise RunError(
            "the rollouts carry no token entropies",
            "rollouts.entropies",
            "a component that reads them declares needs = {'entropies'}",
        )
    mask_B_T = rollouts.mask.to(rollouts.entropies.dtype)
    mean_B = (rollouts.entropies * mask_B_T).sum(1) / mask_B_T.sum(1).clamp(min=1)
    return group_mean(mean_B, rollouts.episodes, len(rollouts.raw_rewards_E))


def _deviation_of_groups(x_E: Tensor, rollouts: Rollouts, ddof: int, squared: bool) -> Tensor:
    """Return the standard deviation of each group's members, or its square: [P]."""
    std_P = group_std(x_E, *episode_groups(rollouts), ddof=ddof)
    return std_P.square() if squared else std_P


@attrs.frozen
class RewardVariance(GroupMetric):
    """The standard deviation of the episode rewards in the group is its score.

    The name is the one that the field uses, although the score is the deviation:
    ``s_g = sqrt(sum_i (r_i - mean r)^2 / (G - ddof))`` over the group's G episodes, in reward units. Rewards are raw:
    they contain the format penalty and are not normalised. Equal rewards give exactly 0, and so does a group of one (in
    RAGEN that is NaN and empties the batch).

    Which groups ``top_p`` keeps depends on whether the mass is the deviation or the variance: ``squared`` scores the
    variance itself, which is what the text of the RAGEN-2 paper describes, while its code scores the deviation.
    """

    ddof: Literal[0, 1] = attrs.field(default=1, validator=attrs.validators.in_((0, 1)))
    """Degrees of freedom: 1 divides by G - 1, 0 by G."""
    squared: bool = False
    """Whether the score is the variance (reward units squared) and not the standard deviation."""
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] in reward units."""
        return _deviation_of_groups(rollouts.raw_rewards_E, rollouts, self.ddof, self.squared)


@attrs.frozen
class Reward(GroupMetric):
    """The mean raw episode reward of the group, format penalty included, is its score. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] in reward units."""
        return group_mean(rollouts.raw_rewards_E, *episode_groups(rollouts))


@attrs.frozen
class RewardSum(GroupMetric):
    """The sum of the group's raw episode rewards, format penalty included, is its score. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] in reward units."""
        return group_sum(rollouts.raw_rewards_E, *episode_groups(rollouts))


@attrs.frozen
class Entropy(GroupMetric):
    """The mean token entropy of the group's episodes, in nats, is its score.

    Each episode counts with its own mean; an episode of several rows (turn-level context windows) with the mean of its
    rows. This metric costs a pass of the policy over all rollouts before the filter. Source: RAGEN-2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] nats. Raises RunError when the rollouts carry no entropies."""
        return group_mean(episode_entropies(rollouts), *episode_groups(rollouts))


@attrs.frozen
class EntropyVariance(GroupMetric):
    """The standard deviation of the episodes' mean token entropies in the group, in nats, is its score.

    As with ``reward_variance`` the name says variance and the score is the deviation; it is 0 for a group of one. This
    metric costs a pass of the policy over all rollouts before the filter. Source: RAGEN-2.
    """

    ddof: Literal[0, 1] = attrs.field(default=1, validator=attrs.validators.in_((0, 1)))
    """Degrees of freedom: 1 divides by G - 1, 0 by G."""
    squared: bool = False
    """Whether the score is the variance (nats squared) and not the standard deviation."""
    needs: ClassVar[frozenset[str]] = frozenset({"groups", "entropies"})

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] nats. Raises RunError when the rollouts carry no entropies."""
        return _deviation_of_groups(episode_entropies(rollouts), rollouts, self.ddof, self.squared)


@attrs.frozen
class Length(GroupMetric):
    """The mean number of sampled tokens of the group's episodes, over all their rows, is its score. Source: RAGEN-2."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        """Return the score of each group, [P] tokens."""
        return group_mean(episode_lengths(rollouts), *episode_groups(rollouts))
