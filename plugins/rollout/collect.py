"""Episodes are collected turn by turn, or each at its own pace where the engine takes single requests.

An engine that takes single requests gets the next turn of a conversation as soon as its environment has answered, while
others are still generating. Any other engine gets the next turns of all conversations in one call.
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
    """Play ``group_size`` episodes of each environment seed, and return them ordered by group and member.

    Args:
        environment: what makes the tasks.
        rollout: the ``rollout`` section, with the limits of an episode.
        engine: what samples.
        template: what writes prompts and reads responses.
        seeds: the environment seeds of the groups; with several ranks, those of this rank.
        group_size: the episodes of a group.
        seed: the seed of sampling, which differs from step to step.
        temperature: the sampling temperature, ``rollout.temperature`` unless given; 0 decodes greedily.

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
    """Sample the next turns of all running conversations in one call, until none runs."""
    turn = 0
    while active := [conversation for conversation in conversations if conversation.stop is None]:
        prompts = [conversation.prompt for conversation in active]
        completions = engine.generate(prompts, sampling, _turn_seed(seed, turn, seeds))
        for conversation, completion in zip(active, completions, strict=True):
            conversation.advance(completion)
        turn += 1


def _play_at_own_pace(conversations: Sequence[Conversation], engine: Any, sampling: Sampling, seed: int) -> None:
    """Sample each conversation's next turn as soon as it can be asked for, until none runs.

    Each turn has its own seed, from the group, the member and the turn, so that the order of turns does not matter.
    """

    def ask(index: int) -> None:
        conversation = conversations[index]
        turn_seed = _turn_seed(seed, len(conversation.turns), (conversation.seed, conversation.member))
        engine.submit(index, conversation.prompt, sampling, turn_seed)

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


def _turn_seed(seed: int, turn: int, groups: Sequence[int]) -> int:
    """Return the seed of a turn. Groups are part of it, so that ranks do not share their noise."""
    # not hash(): every process must get the same number
    digest = hashlib.sha256(repr((seed, turn, list(groups))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
