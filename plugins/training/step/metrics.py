"""Metrics of what a step computes as a whole: its validation, and its advantages."""

from __future__ import annotations

from torch import Tensor

from ....core.components import Advantages
from ...rollout.episode import Episode
from ...rollout.named_rewards import reward_metrics
from ...rollout.rows import episode_metrics


def validation_metrics(episodes: list[Episode]) -> dict[str, float]:
    """Return ``validation/success`` and the other metrics of :func:`.rows.episode_metrics`, with a standard error.

    ``success_se`` is the standard error of the mean over distinct tasks: episodes that begin with the same prompt
    (members of a group, or a small room that was drawn twice) are one cluster, since they succeed and fail together.
    """
    clusters: dict[tuple[str, str], list[float]] = {}
    for episode in episodes:
        clusters.setdefault((episode.system, episode.turns[0].user), []).append(float(episode.success))
    metrics = episode_metrics(episodes) | reward_metrics(episodes)
    residuals = [sum(cluster) - len(cluster) * metrics["success"] for cluster in clusters.values()]
    count = len(residuals)
    squares = count / (count - 1) * sum(residual**2 for residual in residuals) if count > 1 else float("nan")
    metrics["success_se"] = squares**0.5 / len(episodes)
    metrics["episodes"] = float(len(episodes))
    metrics["tasks"] = float(count)
    return {f"validation/{name}": value for name, value in metrics.items()}


def advantage_metrics(result: Advantages, values: Tensor | None, mask: Tensor) -> dict[str, float]:
    """Return mean and standard deviation of the advantages, and how much of the returns the values explain."""
    advantages_N = result.advantages[mask]
    returns_N = result.returns[mask]
    metrics = {
        "critic/advantages_mean": float(advantages_N.mean()),
        "critic/advantages_std": float(advantages_N.std()) if len(advantages_N) > 1 else 0.0,
        "critic/returns_mean": float(returns_N.mean()),
    }
    if values is not None:
        variance = float(returns_N.var()) if len(returns_N) > 1 else 0.0
        if variance > 0:
            unexplained = float((returns_N - values[mask]).var())
            metrics["critic/explained_variance"] = 1.0 - unexplained / variance
    return metrics
