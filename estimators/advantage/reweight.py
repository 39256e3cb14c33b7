"""Scaling of finished advantages by what groups and filter say; returns, KL and entropy terms are not scaled."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..groups import group_index, group_std


def soft_group_weights(groups: Tensor, episodes: Tensor, raw_rewards: Tensor) -> Tensor:
    """[B]: the reward std of each row's group, over the largest one in the batch.

    weight = std / (max std + 1e-6), std with ddof 1 over the raw episode rewards of the groups in the batch; each
    episode counts once. A group whose rewards are all equal, or a group of one, has weight 0.

    Args:
        groups: [B] int64 group ids.
        episodes: [B] int64, the row's episode, an index into ``raw_rewards``.
        raw_rewards: [E] episode rewards before any normalisation.

    Source: ``soft_advantage_reweight`` of RAGEN-2.
    """
    seen_E, episode_B = torch.unique(episodes, return_inverse=True)
    groups_E = groups.new_empty(len(seen_E)).scatter_(0, episode_B, groups)
    ids_P, index_E = group_index(groups_E)
    std_P = group_std(raw_rewards[seen_E], index_E, len(ids_P))
    weights_P = std_P / (std_P.max() + 1e-6) if len(std_P) else std_P
    return weights_P[index_E[episode_B]]


def soft_advantage_reweight(advantages: Tensor, groups: Tensor, episodes: Tensor, raw_rewards: Tensor) -> Tensor:
    """[B, T]: advantages times :func:`soft_group_weights`, so that groups that tell more apart train more."""
    return advantages * soft_group_weights(groups, episodes, raw_rewards)[:, None].to(advantages.dtype)


def filter_loss_scale(kept_ratio: float, mode: Literal["none", "linear", "sqrt"]) -> float:
    """What the policy's advantages are multiplied by when the filter kept this share of the groups.

    1, r or sqrt(r), so that a step with few groups left moves the policy less. Source: ``filter_loss_scaling`` of
    RAGEN-2.

    Raises:
        ValueError: an unknown mode, or a ratio outside 0 to 1.
    """
    if not 0 <= kept_ratio <= 1:
        raise ValueError(f"the kept ratio is a share of the groups, 0 to 1, not {kept_ratio}")
    scales = {"none": 1.0, "linear": float(kept_ratio), "sqrt": math.sqrt(kept_ratio)}
    if mode not in scales:
        raise ValueError(f"loss_scaling is one of {', '.join(scales)}, not {mode!r}")
    return scales[mode]
