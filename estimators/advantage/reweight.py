"""Scaling of finished advantages by what groups and filter say; returns, KL and entropy terms are not scaled."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..groups import group_index, group_std


def soft_group_weights(groups_B: Tensor, episodes_B: Tensor, raw_rewards_E: Tensor) -> Tensor:
    """Divide the reward std of each row's group by the largest one in the batch: [B].

    weight = std / (max std + 1e-6), std with ddof 1 over the raw episode rewards of the groups in the batch; each
    episode counts once. A group whose rewards are all equal, or a group of one, has weight 0.

    Args:
        groups_B: [B] int64 group ids.
        episodes_B: [B] int64, the row's episode, an index into ``raw_rewards_E``.
        raw_rewards_E: [E] episode rewards before any normalisation.

    Source: ``soft_advantage_reweight`` of RAGEN-2.
    """
    # episodes without rows, because a filter dropped them, do not count
    present_E, episode_B = torch.unique(episodes_B, return_inverse=True)
    groups_E = groups_B.new_empty(len(present_E)).scatter_(0, episode_B, groups_B)
    ids_P, index_E = group_index(groups_E)
    std_P = group_std(raw_rewards_E[present_E], index_E, len(ids_P))
    weights_P = std_P / (std_P.max() + 1e-6) if len(std_P) else std_P
    return weights_P[index_E[episode_B]]


def soft_advantage_reweight(
    advantages_B_T: Tensor, groups_B: Tensor, episodes_B: Tensor, raw_rewards_E: Tensor
) -> Tensor:
    """Multiply advantages [B, T] by :func:`soft_group_weights`: groups whose rewards differ more train more."""
    weights_B = soft_group_weights(groups_B, episodes_B, raw_rewards_E)
    return advantages_B_T * weights_B[:, None].to(advantages_B_T.dtype)


def filter_loss_scale(kept_ratio: float, mode: Literal["none", "linear", "sqrt"]) -> float:
    """Return the factor of the policy's advantages when the filter kept this share r of the groups.

    It is 1 (``none``), r (``linear``) or sqrt(r) (``sqrt``), so that a step with few groups left moves the policy less.
    Source: ``filter_loss_scaling`` of RAGEN-2.

    Raises:
        ValueError: an unknown mode, or a ratio outside 0 to 1.
    """
    if not 0 <= kept_ratio <= 1:
        raise ValueError(f"the kept ratio is a share of the groups, 0 to 1, not {kept_ratio}")
    scales = {"none": 1.0, "linear": float(kept_ratio), "sqrt": math.sqrt(kept_ratio)}
    if mode not in scales:
        raise ValueError(f"loss_scaling is one of {', '.join(scales)}, not {mode!r}")
    return scales[mode]
