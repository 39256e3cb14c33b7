"""Episode rewards are shaped and normalised before the advantage estimator sees them.

Filters, group metrics and detectors see none of this: they read the raw rewards. (In RAGEN-2 they read normalised
ones, where every group that is not degenerate has a standard deviation of 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs
import torch
from torch import Tensor

from ....core.components import RewardShaping, ShapingInputs
from ....estimators.groups import group_count, group_index, group_mean, group_std
from ...rollout.episode import Episode
from ...rollout.rows import in_order, raw_rewards

NORMALIZATIONS = ("identity", "mean", "mean_std", "asym_clip")


@attrs.frozen
class Shaping:
    """A reward shaping in one training step."""

    rule: RewardShaping
    """The component."""
    max_tokens: int
    """``rollout.max_tokens``."""
    step: int
    """The training step, from 0."""
    steps: int
    """The number of training steps of the run."""

    def __call__(self, episodes: Sequence[Episode]) -> Tensor:
        """Return the shaped rewards, [E], in the order of :func:`..rollout.rows.raw_rewards`.

        Raises:
            RunError: the rule raised something, or did not give one finite reward for each episode.
        """
        raw_rewards_E, groups_E = raw_rewards(episodes)
        if self.rule.idle:
            return raw_rewards_E
        ordered = in_order(episodes)
        inputs = ShapingInputs(
            rewards_E=raw_rewards_E,
            groups_E=groups_E,
            lengths_E=torch.tensor([sum(len(turn.tokens) for turn in episode.turns) for episode in ordered]),
            turns_E=torch.tensor([len(episode.turns) for episode in ordered]),
            success_E=torch.tensor([episode.success for episode in ordered]),
            truncated_E=torch.tensor([episode.truncated for episode in ordered]),
            max_tokens=self.max_tokens,
            step=self.step,
            steps=self.steps,
        )
        return self.rule.shape(inputs)


def normalize(
    raw_rewards_E: Tensor,
    groups_E: Tensor,
    normalization: Literal["identity", "mean", "mean_std", "asym_clip"] = "identity",
    over: Literal["group", "batch"] = "group",
) -> Tensor:
    """Return the episode rewards, [E], normalised within their group or over the whole batch.

    * ``identity``: x
    * ``mean``: x - mean
    * ``mean_std``: (x - mean) / (std + 1e-6), std with ddof 1; zeros where std <= 1e-6
    * ``asym_clip``: ``mean_std`` clamped to [-1, 3]

    The reward of a group (or batch) of one episode stays as it is. Formulas: RAGEN-2.

    Args:
        raw_rewards_E: [E], format penalties included.
        groups_E: [E] int64 group ids.
        normalization: one of the above.
        over: whether mean and std are those of the group or of the batch.

    Raises:
        ValueError: an unknown normalisation or ``over``.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"reward.normalization is one of {', '.join(NORMALIZATIONS)}, not {normalization!r}")
    if over not in ("group", "batch"):
        raise ValueError(f"reward.over is 'group' or 'batch', not {over!r}")
    if normalization == "identity":
        return raw_rewards_E
    ids_P, index_E = group_index(groups_E if over == "group" else torch.zeros_like(groups_E))
    P = len(ids_P)
    normalized_E = raw_rewards_E - group_mean(raw_rewards_E, index_E, P)[index_E]
    if normalization != "mean":
        std_E = group_std(raw_rewards_E, index_E, P)[index_E]
        normalized_E = torch.where(std_E > 1e-6, normalized_E / (std_E + 1e-6), 0.0)
    if normalization == "asym_clip":
        normalized_E = normalized_E.clamp(-1.0, 3.0)
    return torch.where(group_count(index_E, P)[index_E] > 1, normalized_E, raw_rewards_E)
