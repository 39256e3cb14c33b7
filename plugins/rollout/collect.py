"""Collecting episodes: every conversation that still runs takes its turn in one call of the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ...core.components import Environment, RolloutEngineSession, Sampling
from ...core.experiment import Rollout
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
    turn = 0
    while active := [conversation for conversation in conversations if conversation.stop is None]:
        prompts = [conversation.prompt for conversation in active]
        completions = engine.generate(prompts, sampling, _turn_seed(seed, turn, seeds))
        for conversation, completion in zip(active, completions, strict=True):
            conversation.advance(completion)
        turn += 1
    return [conversation.episode() for conversation in conversations]


def _turn_seed(seed: int, turn: int, seeds: Sequence[int]) -> int:
    """The groups are part of it so that ranks do not share their noise; a fixed hash, so that every process agrees."""
    digest = hashlib.sha256(repr((seed, turn, list(seeds))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
