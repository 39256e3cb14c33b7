"""Laws of environments."""

from __future__ import annotations

import pickle
from typing import Any, cast

import attrs

from ...core.components import Step
from ...core.compose.blame import told
from ...core.compose.experiment import Experiment, Named, Rollout
from ...core.errors import RunError
from ...core.registry import registry
from ...plugins.rollout.borders import CheckedEnvironment
from ...plugins.rollout.dialogue import require_nameable, setting_of
from ..problems import laws, require

SEEDS = (0, 1, 12345)
TEXTS = ("42", "", "I do not know.", "1 + 1", "ü\n||", "no such action")
LONGEST = 12
"""Actions that are tried in an episode."""


def _makes_episodes(named: Named) -> None:
    """An environment has an instruction and actions, and makes episodes that begin with a text."""
    world = CheckedEnvironment(named)
    require(named, "instruction", bool(world.instruction), "is empty: it tells the model its task")
    _ = world.actions
    for seed in SEEDS:
        world.make(seed)


def _can_be_played(named: Named) -> None:
    """An environment has actions that answers in the dialogue by default can name."""
    world, default = CheckedEnvironment(named), cast(str, attrs.fields(Experiment).dialogue.default)
    dialogue = registry().create("dialogue", default)
    require_nameable(world, dialogue, setting_of(world, Rollout()))


def _members_share_the_prompt(named: Named) -> None:
    """An environment shows all members of a group the same first observation."""
    world = CheckedEnvironment(named)
    for seed in SEEDS:
        for member in range(4):
            world.make(seed, member)


def _answers(named: Named) -> None:
    """An environment answers each action with a Step of a text and a finite reward."""
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
    world, alone = CheckedEnvironment(named), [_play(named, named.component, seed, 0) for seed in SEEDS]
    actions = world.actions or TEXTS
    episodes = [world.make(seed, 0) for seed in SEEDS]
    told: list[list[Any]] = [[env.initial_observation()] for env in episodes]
    for number in range(LONGEST):
        for env, said in zip(episodes, told, strict=True):
            if number == 0 or not said[-1][2]:
                said.append(_as_told(env.step(actions[number % len(actions)])))
    require(named, "make", told == alone, "plays another episode while others are played: they share something")


def _works_after_a_pickle(named: Named) -> None:
    """An environment that was sent to another process plays the same."""
    if "<locals>" in type(named.component).__qualname__ or not _is_found(type(named.component)):
        return
    try:
        copy = pickle.loads(pickle.dumps(named.component))
    except Exception as error:
        raise RunError(f"{named.described} cannot be pickled: {told(error)}") from error
    same = _play(named, copy, 0, 0) == _play(named, named.component, 0, 0)
    require(named, "pickle", same, "plays another episode after it was pickled")


def _is_found(cls: type) -> bool:
    import sys

    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def _play(named: Named, component: Any, seed: int, member: int, first: int = 0) -> list[Any]:
    """What an episode says, played by the same actions each time until it ends."""
    world = CheckedEnvironment(named, component)
    actions = world.actions or TEXTS
    env = world.make(seed, member)
    said: list[Any] = [env.initial_observation()]
    for number in range(LONGEST):
        step: Step = env.step(actions[(first + number) % len(actions)])
        said.append(_as_told(step))
        if step.done:
            break
    return said


def _as_told(step: Step) -> tuple[str, float, bool, bool]:
    return step.observation, step.reward, step.done, step.success


LAWS = {
    "environment": laws(
        _makes_episodes,
        _can_be_played,
        _members_share_the_prompt,
        _answers,
        _repeats_itself,
        _keeps_episodes_apart,
        _works_after_a_pickle,
    )
}
