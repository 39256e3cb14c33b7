"""The laws of environments."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import attrs

from ...core.components import Env, Step
from ...core.compose.blame import blaming, told
from ...core.compose.experiment import Experiment, Rollout
from ...core.compose.named import Named
from ...core.errors import RunError
from ...core.registry import registry
from ...plugins.rollout.awaiting import settled
from ...plugins.rollout.borders import CheckedEnvironment
from ...plugins.rollout.dialogue import require_nameable, setting_of
from ..problems import laws, require

SEEDS = (0, 1, 12345)
TEXTS = ("42", "", "I do not know.", "1 + 1", "ü\n||", "no such action")
LONGEST = 12
"""Largest number of actions that are tried in an episode."""


def _makes_episodes(named: Named) -> None:
    """An environment has an instruction and actions, and makes episodes that begin with a text."""
    world = CheckedEnvironment(named)
    require(named, "instruction", bool(world.instruction), "is empty: it tells the model its task")
    _ = world.actions
    for seed in SEEDS:
        world.make(seed).close()


def _can_be_played(named: Named) -> None:
    """An environment has actions that answers in the dialogue by default can name, and tools that can be called."""
    world, default = CheckedEnvironment(named), cast(str, attrs.fields(Experiment).dialogue.default)
    setting = setting_of(world, Rollout())
    require_nameable(world, registry().create("dialogue", "tool_calls" if setting.tools else default), setting)
    env = settled(named.component.make, SEEDS[0])
    if type(env).call is Env.call:
        missing = [tool.name for tool in setting.tools if not hasattr(env, tool.name)]
        require(named, "tools", not missing, f"holds {missing[:1]}, which is no method of the episode")


def _members_share_the_prompt(named: Named) -> None:
    """An environment shows all members of a group the same first observation."""
    world = CheckedEnvironment(named)
    for seed in SEEDS:
        for member in range(4):
            world.make(seed, member).close()


def _answers(named: Named) -> None:
    """An environment answers each action with a Step that has a text and a finite reward."""
    for seed in SEEDS:
        for first in range(3):
            _play(named, named.component, seed, 0, first)


def _repeats_itself(named: Named) -> None:
    """An environment plays the same episode for the same seed, member and actions."""
    for seed in SEEDS:
        same = _play(named, named.component, seed, 1) == _play(named, named.component, seed, 1)
        require(named, f"make({seed}, 1)", same, "made another episode of the same seed, member and actions")


def _keeps_episodes_apart(named: Named) -> None:
    """An environment's episodes do not change each other, however their steps alternate."""
    alone = [_play(named, named.component, seed, 0) for seed in SEEDS]
    world = CheckedEnvironment(named, weights={})
    actions = world.actions or TEXTS
    episodes = [world.make(seed, 0) for seed in SEEDS]
    together: list[list[Any]] = [[env.initial_observation()] for env in episodes]
    for number in range(LONGEST):
        for env, observed in zip(episodes, together, strict=True):
            if number == 0 or not observed[-1][2]:
                observed.append(_content(env.step(actions[number % len(actions)])))
    for env in episodes:
        env.close()
    require(named, "make", together == alone, "plays another episode while others are played: they share something")


def _plays_in_threads(named: Named) -> None:
    """An environment plays the same in threads, side by side, unless its ``concurrency`` is 1."""
    if CheckedEnvironment(named).concurrency == 1:
        return
    alone = [_play(named, named.component, seed, 0) for seed in SEEDS]
    fix = "give the class concurrency = 1 if its episodes cannot be played in threads"
    with ThreadPoolExecutor(len(SEEDS)) as threads:
        played = [threads.submit(_play, named, named.component, seed, 0) for seed in SEEDS]
    try:
        together = [each.result() for each in played]
    except RunError as error:
        raise RunError(f"{error.what} (in a thread)", error.where, fix) from error
    require(named, "make", together == alone, "plays another episode in a thread, beside others", fix)


def _works_after_a_pickle(named: Named) -> None:
    """An environment that was sent to another process plays the same."""
    # a class that no other process can import, as those of tests, cannot be sent to one
    if "<locals>" in type(named.component).__qualname__ or not _is_importable(type(named.component)):
        return
    try:
        copy = pickle.loads(pickle.dumps(named.component))
    except Exception as error:
        raise RunError(f"{named.described} cannot be pickled: {told(error)}") from error
    same = _play(named, copy, 0, 0) == _play(named, named.component, 0, 0)
    require(named, "pickle", same, "plays another episode after it was pickled")


def _demonstrates(named: Named) -> None:
    """An environment that demonstrates says actions that it has, which the dialogues read as they are meant."""
    world = named.component
    if world.demonstrated is None:
        return
    from ...plugins.experiments.conversations import conversations

    default = cast(str, attrs.fields(Experiment).dialogue.default)
    dialogue = registry().create("dialogue", "tool_calls" if world.tools else default)
    with blaming(named, "demonstrate"):
        for _ in conversations(world, Rollout(), dialogue, 0, len(SEEDS)):
            pass


def _is_importable(cls: type) -> bool:
    """Say whether a class stands in its module under its name."""
    import sys

    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def _play(named: Named, component: Any, seed: int, member: int, first: int = 0) -> list[Any]:
    """Play an episode by the same actions each time until it ends; return all that it says."""
    world = CheckedEnvironment(named, component, {})
    actions = world.actions or TEXTS
    env = world.make(seed, member)
    observed: list[Any] = [env.initial_observation()]
    for number in range(LONGEST):
        step: Step = env.step(actions[(first + number) % len(actions)])
        observed.append(_content(step))
        if step.done:
            break
    env.close()
    return observed


def _content(step: Step) -> tuple[str, float, bool, bool, Mapping[str, float]]:
    return step.observation, step.reward, step.done, step.success, step.rewards


LAWS = {
    "environment": laws(
        _makes_episodes,
        _can_be_played,
        _members_share_the_prompt,
        _answers,
        _repeats_itself,
        _keeps_episodes_apart,
        _plays_in_threads,
        _works_after_a_pickle,
        _demonstrates,
    )
}
