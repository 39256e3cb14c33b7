"""Metrics of what a step computes as a whole: its validation, and its advantages."""

from __future__ import annotations

from torch import Tensor

from ....core.components import Advantages
from ...rollout.episode import Episode
from ...rollout.rows import episode_metrics


def validation_metrics(episodes: list[Episode]) -> dict[str, float]:
    """``validation/success`` and the rest of :func:`.rows.episode_metrics`.

    ``success_se`` is the standard error of the mean over distinct tasks: episodes that begin with the same prompt
    (members of a group, or a small room that was drawn twice) are one cluster, since they succeed and fail together.
    """
    clusters: dict[tuple[str, str], list[float]] = {}
    for episode in episodes:
        clusters.setdefault((episode.system, episode.turns[0].user), []).append(float(episode.success))
    metrics = episode_metrics(episodes)
    residuals = [sum(cluster) - len(cluster) * metrics["success"] for cluster in clusters.values()]
    count = len(residuals)
    spread = count / (count - 1) * sum(residual**2 for residual in residuals) if count > 1 else float("nan")
    own = {"success_se": spread**0.5 / len(episodes), "episodes": float(len(episodes)), "tasks": float(count)}
    return {f"validation/{name}": value for name, value in (metrics | own).items()}


def advantage_metrics(result: Advantages, values: Tensor | None, mask: Tensor) -> dict[str, float]:
    chosen = result.advantages[mask]
    metrics = {
        "critic/advantages_mean": float(chosen.mean()),
        "critic/advantages_std": float(chosen.std()) if len(chosen) > 1 else 0.0,
        "critic/returns_mean": float(result.returns[mask].mean()),
    }
    if values is not None:
        returns = result.returns[mask]
        spread = float(returns.var()) if len(returns) > 1 else 0.0
        if spread > 0:
            metrics["critic/explained_variance"] = 1.0 - float((returns - values[mask]).var()) / spread
    return metrics
