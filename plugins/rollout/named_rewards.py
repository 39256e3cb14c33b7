"""An environment may give several rewards, each with a name; their weighted sum is the reward that episodes have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import attrs
import torch
from torch import Tensor

from ...core.components import Rollouts, Step
from ...core.compose.reward_names import FORMAT_PENALTY
from ...core.errors import nearest
from .episode import Episode


def weighed(step: Step, names: Sequence[str], weights: Mapping[str, float] | None) -> Step:
    """Return the step with all rewards that are declared, and with their weighted sum as its reward.

    Args:
        step: what an environment gave; its numbers are finite.
        names: the names that the environment declares; without any, the step has one reward.
        weights: the weights that are not 1; ``None`` leaves the reward as it is.

    Raises:
        ValueError: the step names a reward that is not declared, it has another reward beside them, or their weighted
            sum is too large for a number.
    """
    if unknown := [name for name in step.rewards if name not in names]:
        hint = nearest(unknown[0], names) if names else "reward_names is empty"
        raise ValueError(f"gave a reward {unknown[0]!r}, which reward_names does not declare: {hint}")
    if names:
        step = attrs.evolve(step, rewards={name: step.rewards.get(name, 0.0) for name in names})
    if not names or weights is None:
        return step
    if step.reward:
        raise ValueError(
            f"gave reward = {step.reward:g} beside the rewards that reward_names declares ({', '.join(names)}): give "
            "it a name of its own, and leave reward at 0"
        )
    reward = sum(weights.get(name, 1.0) * reward for name, reward in step.rewards.items())
    if not math.isfinite(reward):
        raise ValueError(f"gave rewards whose weighted sum is {reward}, which is not a finite number")
    return attrs.evolve(step, reward=float(reward))


def summed(rewards: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sum of each reward, by name."""
    sums: dict[str, float] = {}
    for of_step in rewards:
        for name, reward in of_step.items():
            sums[name] = sums.get(name, 0.0) + reward
    return sums


def by_name(episodes: Sequence[Episode], names: Sequence[str], penalised: bool) -> dict[str, Tensor]:
    """Return the rewards of episodes by their names: name -> [E] reward units, in the order of the episodes.

    Args:
        episodes: E episodes.
        names: the names that the environment declares; without any, the result is empty.
        penalised: whether format penalties may be charged, which are then another reward.
    """
    of_episodes = [summed(turn.rewards for turn in episode.turns) for episode in episodes]
    rewards = {name: torch.tensor([sums.get(name, 0.0) for sums in of_episodes]) for name in names}
    if names and penalised:
        rewards[FORMAT_PENALTY] = torch.tensor([-sum(turn.penalty for turn in e.turns) for e in episodes])
    return rewards


def with_names(
    rollouts: Rollouts, episodes: Sequence[Episode], names: Sequence[str], weights: Mapping[str, float], penalty: float
) -> Rollouts:
    """Return the rollouts of these episodes with the rewards that their environment names.

    Args:
        rollouts: the rows of the episodes.
        episodes: E episodes, in the order of the rows.
        names: the names that the environment declares.
        weights: the weights that are not 1.
        penalty: ``rollout.format_penalty``.
    """
    rewards = by_name(episodes, names, penalty > 0)
    return attrs.evolve(
        rollouts, rewards_by_name=rewards, reward_weights={name: weights.get(name, 1.0) for name in rewards}
    )


def reward_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the mean of each named reward over the episodes, as ``reward/NAME``, without its weight."""
    of_episodes = [summed(turn.rewards for turn in episode.turns) for episode in episodes]
    names = dict.fromkeys(name for sums in of_episodes for name in sums)
    return {f"reward/{name}": fmean(sums.get(name, 0.0) for sums in of_episodes) for name in names}
