"""Collecting episodes, by turns or without a barrier, as the engine can.

An engine that takes single requests plays every conversation at its own pace: its next turn is queued as soon as its
environment has answered, while the others are still generating. Elsewhere all conversations that still run take their
turn in one call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ...core.components import Environment, RolloutEngineSession, Sampling
from ...core.compose.experiment import Rollout
from .conversation import Conversation
from .episode import Episode
from .template import Template


def collect(
    environment: Environment,
    rollout: Rollout,
    engine: RolloutEngineSession,
    template: Template,
    *,
    seeds: Sequence[int],
    group_size: int,
    seed: int,
    temperature: float | None = None,
) -> list[Episode]:
    """``group_size`` episodes for each environment seed in ``seeds``, ordered by group and member.

    With several ranks each collects the groups of its share of ``seeds``. ``seed`` is the sampling's; change it from
    step to step. ``temperature`` is ``rollout.temperature`` unless given; 0 decodes greedily.

    Raises:
        RequestError: a first prompt leaves no room for a turn in ``rollout.max_context``.
    """
    sampling = Sampling(rollout.temperature if temperature is None else temperature, rollout.max_tokens)
    conversations = [
        Conversation(environment, rollout, template, group, member) for group in seeds for member in range(group_size)
    ]
    if engine.single_requests:
        _play_at_own_pace(conversations, engine, sampling, seed)
    else:
        _play_by_turns(conversations, engine, sampling, seed, seeds)
    return [conversation.episode() for conversation in conversations]


def _play_by_turns(
    conversations: Sequence[Conversation], engine: Any, sampling: Sampling, seed: int, seeds: Sequence[int]
) -> None:
    turn = 0
    while active := [conversation for conversation in conversations if conversation.stop is None]:
        prompts = [conversation.prompt for conversation in active]
        completions = engine.generate(prompts, sampling, _turn_seed(seed, turn, seeds))
        for conversation, completion in zip(active, completions, strict=True):
            conversation.advance(completion)
        turn += 1


def _play_at_own_pace(conversations: Sequence[Conversation], engine: Any, sampling: Sampling, seed: int) -> None:
    """Each turn has a seed of its own, from the group, the member and the turn: who runs beside it does not matter."""

    def ask(index: int) -> None:
        asked = conversations[index]
        own = _turn_seed(seed, len(asked.turns), (asked.seed, asked.member))
        engine.submit(index, asked.prompt, sampling, own)

    running = len(conversations)
    for index in range(running):
        ask(index)
    while running:
        for index, completion in engine.finished():
            conversations[index].advance(completion)
            if conversations[index].stop is None:
                ask(index)
            else:
                running -= 1


def _turn_seed(seed: int, turn: int, who: Sequence[int]) -> int:
    """The groups are part of it so that ranks do not share their noise; a fixed hash, so that every process agrees."""
    digest = hashlib.sha256(repr((seed, turn, list(who))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
