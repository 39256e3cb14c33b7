"""Metrics of a step that say which groups a filter was given and which it kept."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.components import Rollouts
from ..estimators.groups import group_mean, group_std, group_sum
from .metrics import episode_entropies, episode_groups, episode_lengths
from .ranking import ZERO


def selection_metrics(scores_P: Tensor, keep_P: Tensor, rollouts: Rollouts) -> dict[str, float]:
    """Compute the metrics of one selection; ``rollouts`` are those before the filter.

    ``rollout/filter_kept_count``, ``rollout/filter_kept_ratio`` and ``rollout/filter_zero_count`` (scores of at most
    1e-10 in size, before any exclusion) describe the selection. Statistics within the groups, averaged over all
    groups, are ``rollout/in_group_reward_{std,max,mean,sum}``, ``rollout/in_group_length_{std,max,mean}`` and, where
    the rollouts carry entropies, ``rollout/in_group_entropy_{std,max,mean}``, whatever metric the filter ranks by;
    ``rollout/chosen_in_group_...`` are the same over the kept groups, 0 where none is kept. Units: reward units,
    tokens, nats. Deviations divide by G - 1.

    ``rollout/in_group_reward_std_cv`` is the deviation of the in-group reward deviation over all P groups (divided by
    P - 1), over its mean: Std/Mean of the reward variance in RAGEN-2 (arXiv 2604.06268, Table 8), whose code calls the
    deviation variance. It is left out where it is not defined, with one group or without any spread of rewards.
    """
    index_E, P = episode_groups(rollouts)
    kept_P = keep_P.to(rollouts.raw_rewards_E.device)
    metrics = {
        "rollout/filter_kept_count": float(kept_P.sum()),
        "rollout/filter_kept_ratio": float(kept_P.sum()) / P if P else 0.0,
        "rollout/filter_zero_count": float((scores_P.abs() <= ZERO).sum()),
    }
    quantities_E = {"reward": rollouts.raw_rewards_E, "length": episode_lengths(rollouts)}
    if rollouts.entropies is not None:
        quantities_E["entropy"] = episode_entropies(rollouts)
    for quantity, x_E in quantities_E.items():
        statistics_P = {
            "std": group_std(x_E, index_E, P),
            "max": x_E.new_full((P,), -torch.inf).scatter_reduce(0, index_E, x_E, "amax"),
            "mean": group_mean(x_E, index_E, P),
        }
        if quantity == "reward":
            statistics_P["sum"] = group_sum(x_E, index_E, P)
        for statistic, x_P in statistics_P.items():
            metrics[f"rollout/in_group_{quantity}_{statistic}"] = _mean(x_P)
            metrics[f"rollout/chosen_in_group_{quantity}_{statistic}"] = _mean(x_P[kept_P])
    spread_P = group_std(rollouts.raw_rewards_E, index_E, P)
    if P > 1 and float(mean := spread_P.mean()) > ZERO:
        metrics["rollout/in_group_reward_std_cv"] = float(spread_P.std() / mean)
    return metrics


def _mean(x: Tensor) -> float:
    return float(x.mean()) if len(x) else 0.0
