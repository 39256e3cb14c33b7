"""The laws give components small batches, which have every special case that a run can have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import torch
from torch import Tensor

from ..core.components import Answer, CreditInputs, Group, LossInputs, Rollouts, ShapingInputs
from ..plugins.rollout.episode import Episode, Turn
from ..plugins.rollout.sampler_state import group_of

ROWS, TOKENS, GROUP = 8, 7, 2
LENGTHS = (7, 3, 5, 1, 7, 4, 2, 6)
"""Number of tokens of each row before the padding."""


def generator(seed: int = 0) -> torch.Generator:
    """Make a random generator."""
    return torch.Generator().manual_seed(seed)


def scores_P() -> Tensor:
    """Return distinct scores in no order, as a metric gives them: [P]."""
    return torch.tensor([0.31, 0.0, 0.52, 0.11, 0.47, 0.23, 0.08, 0.64])


def masks() -> tuple[Tensor, Tensor]:
    """Return the mask of sampled tokens, with a prompt first and between turns, and their turns: both [B, T]."""
    lengths_B_1 = torch.tensor(LENGTHS)[:, None]
    positions_1_T = torch.arange(TOKENS)[None]
    is_prompt_B_T = (positions_1_T == 4) | ((positions_1_T == 0) & (lengths_B_1 != 1))
    mask_B_T = (positions_1_T < lengths_B_1) & ~is_prompt_B_T
    turns_B_T = torch.where(mask_B_T, (positions_1_T > 4).long(), -1)
    return mask_B_T, turns_B_T


def group_ids() -> Tensor:
    """Return the group of each row: [B] int64, two rows of each of four groups, whose ids are not 0, 1, 2, 3."""
    return torch.arange(ROWS) // GROUP * 3 + 10


def log_probs(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Draw log-probs: [B, T] nats."""
    return -torch.rand((ROWS, TOKENS), generator=generator(seed), dtype=torch.float64).to(dtype) * 2 - 0.05


def rollouts(needs: Iterable[str] = ("entropies",)) -> Rollouts:
    """Make eight episodes of four groups: in one all rewards are equal, another has two equal failures."""
    mask, turns = masks()
    lengths = torch.tensor(LENGTHS)
    raw_rewards_E = torch.tensor([1.0, 0.0, 0.5, 0.5, -1.0, 2.0, 0.0, 0.0])
    several = "rewards_by_name" in set(needs)
    brief_E = torch.tensor([0.5, 0.0, 0.25, 0.75, 0.5, 0.5, 1.0, 0.0])
    rewards = torch.zeros(ROWS, TOKENS)
    last = mask.long().cumsum(1).argmax(1)
    rewards[torch.arange(ROWS), last] = raw_rewards_E
    return Rollouts(
        tokens=torch.randint(5, 90, (ROWS, TOKENS), generator=generator(1)),
        mask=mask,
        turns=turns,
        logprobs=torch.where(mask, log_probs(2), 0.0),
        rewards=rewards,
        episodes=torch.arange(ROWS),
        groups=group_ids(),
        raw_rewards_E=raw_rewards_E,
        group_ids_P=group_ids().unique(),
        entropies=torch.where(mask, log_probs(3).abs(), 0.0) if "entropies" in set(needs) else None,
        lengths=lengths,
        success_E=raw_rewards_E > 0.9,
        truncated_E=raw_rewards_E < 0,
        rewards_by_name={"right": raw_rewards_E - brief_E, "brief": 2 * brief_E} if several else {},
        reward_weights={"right": 1.0, "brief": 0.5} if several else {},
    )


def group(seed: int, step: int, size: int) -> Group:
    """Episodes of two turns; rewards differ between and within groups, and some groups fail as a whole."""
    episodes = []
    for member in range(size):
        reward = float((seed % 3) * member) / 2
        prompts = (2, 5, seed % 7), (2, 5, seed % 7, 11 + member, 3, 4)
        turns = (
            Turn(prompt, (11 + member, 3), (-0.1, -1 / 3), "eos", "?", "!", Answer("", ("Wait",), 1), 1, reward, 0.1)
            for prompt in prompts
        )
        episodes.append(Episode(seed, member, "system", tuple(turns), "success" if reward else "done", {"seen": 0.5}))
    return group_of(episodes, step)


def reordered(sampled: Rollouts, order_P: Tensor) -> Rollouts:
    """Return the same rollouts with the groups in another order: rows and episodes move with them."""
    order = torch.cat([(sampled.groups == sampled.group_ids_P[p]).nonzero().flatten() for p in order_P])
    per_row = {name: getattr(sampled, name) for name in ("tokens", "mask", "turns", "logprobs", "rewards", "groups")}
    per_row |= {name: getattr(sampled, name) for name in ("entropies", "lengths")}
    moved: dict[str, Any] = {name: value if value is None else value[order] for name, value in per_row.items()}
    per_episode = {name: getattr(sampled, name)[order] for name in ("raw_rewards_E", "success_E", "truncated_E")}
    per_episode["rewards_by_name"] = {name: rewards[order] for name, rewards in sampled.rewards_by_name.items()}
    return attrs.evolve(sampled, **moved, **per_episode, group_ids_P=sampled.group_ids_P[order_P])


def shaping_inputs() -> ShapingInputs:
    """Make the inputs of a reward shaping from the episodes of :func:`rollouts`."""
    sampled = rollouts()
    assert sampled.success_E is not None and sampled.truncated_E is not None
    return ShapingInputs(
        rewards_E=sampled.raw_rewards_E,
        groups_E=sampled.groups_of_episodes(),
        lengths_E=sampled.mask.sum(1),
        turns_E=sampled.turns.amax(1) + 1,
        success_E=sampled.success_E,
        truncated_E=sampled.truncated_E,
        max_tokens=5,
        step=3,
        steps=10,
    )


def rows_of_shaping(inputs: ShapingInputs, order: Tensor) -> ShapingInputs:
    """Return some of the episodes, in another order."""
    fields = attrs.asdict(inputs, recurse=False)
    moved: dict[str, Any] = {name: value[order] for name, value in fields.items() if isinstance(value, Tensor)}
    return attrs.evolve(inputs, **moved)


def credit(needs: Iterable[str]) -> CreditInputs:
    """Make the inputs of an advantage estimator from :func:`rollouts`, with the fields that it declares to need."""
    needs = frozenset(needs)
    sampled = rollouts(needs | {"entropies"})
    on = sampled.mask
    optional: dict[str, Any] = {
        "values": torch.where(on, log_probs(4), 0.0),
        "greedy_rewards": torch.tensor([0.3, 0.3, 0.0, 0.0, 1.0, 1.0, 0.5, 0.5]),
        "logprobs": torch.where(on, log_probs(5), 0.0),
        "entropies": sampled.entropies,
        "second_moments": torch.where(on, log_probs(3) ** 2 + 0.3, 0.0),
        "collision_probs": torch.where(on, torch.exp(2 * log_probs(5)) + 0.01, 0.0),
    }
    given = {name: value for name, value in optional.items() if name in needs}
    return CreditInputs(
        rewards=sampled.rewards,
        mask=on,
        groups=sampled.groups,
        turns=sampled.turns,
        # the first turns of a group begin alike, and some later ones are in the same state
        states=torch.where(on, sampled.turns * (1 + torch.arange(ROWS) % 2)[:, None], -1),
        episodes=sampled.episodes,
        success_E=sampled.success_E,
        rewards_by_name=sampled.rewards_by_name,
        reward_weights=sampled.reward_weights,
        step=3,
        steps=10,
        **given,
    )


def rows_of(batch: CreditInputs, order: Tensor) -> CreditInputs:
    """Return the rows of the batch in another order; each is an episode."""
    names = ("rewards", "mask", "groups", "values", "turns", "states", "greedy_rewards", "logprobs", "entropies")
    values = {name: getattr(batch, name) for name in (*names, "second_moments", "collision_probs", "success_E")}
    moved: dict[str, Any] = {name: None if value is None else value[order] for name, value in values.items()}
    moved["rewards_by_name"] = {name: rewards[order] for name, rewards in batch.rewards_by_name.items()}
    return attrs.evolve(batch, **moved)


def padded(batch: CreditInputs, columns: int = 3) -> CreditInputs:
    """Return the same batch with more padding on the right."""
    changed: dict[str, Any] = {}
    for field in attrs.fields(CreditInputs):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor) and value.ndim == 2:
            empty = value.new_full((len(value), columns), -1 if field.name in ("turns", "states") else 0)
            changed[field.name] = torch.cat([value, empty], 1)
    return attrs.evolve(batch, **changed)


def loss_inputs() -> LossInputs:
    """Make all rows of an optimizer step, in float64, with log-probs that can be differentiated."""
    mask, turns = masks()
    old = log_probs(6, torch.float64)
    moves = torch.randn((ROWS, TOKENS), generator=generator(7), dtype=torch.float64) * 0.4
    return LossInputs(
        logprobs=(old + moves).clamp(max=-0.01).requires_grad_(),
        old_logprobs=old,
        advantages=torch.where(mask, torch.randn((ROWS, TOKENS), generator=generator(8), dtype=torch.float64), 0.0),
        mask=mask,
        entropies=log_probs(3, torch.float64).abs(),
        sampler_logprobs=old + 0.02 * moves,
        ref_logprobs=old - 0.3 * moves,
        groups=group_ids(),
        turns=turns,
        rows=torch.arange(ROWS),
        step=3,
    )
