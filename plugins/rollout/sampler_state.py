"""A checkpoint holds the state of samplers as plain data, with every token and log-prob of its groups.

The tokens of a turn, and its log-probs, are each one text of numbers. The beginning that the prompt of a turn shares
with the turn before it is written once.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral, Real
from typing import Any

import attrs
import cattrs

from ...core.components import Group
from .episode import Episode, Turn

GROUP = "group of episodes"
"""The only key of a mapping that holds a group."""


def group_of(episodes: Iterable[Episode], step: int) -> Group:
    """Return the group of these episodes of one task, which the policy of training step ``step`` (from 0) played."""
    members = tuple(sorted(episodes, key=lambda episode: episode.member))
    rewards = tuple(float(episode.reward) for episode in members)
    return Group(members[0].seed, members, rewards, tuple(episode.success for episode in members), step)


def to_plain(state: Any) -> Any:
    """Return the state of a sampler as JSON can hold it.

    Raises:
        ValueError: something in it is neither a finite number, a text, ``None``, a list, a mapping from texts nor a
            :class:`Group`.
    """
    if isinstance(state, Group):
        return {GROUP: {"step": state.step, "episodes": [_plain_episode(each) for each in state.episodes]}}
    if isinstance(state, Mapping):
        if odd := [key for key in state if not isinstance(key, str)]:
            raise ValueError(f"holds a mapping with the key {odd[0]!r}, which a checkpoint would make a text")
        return {key: to_plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [to_plain(value) for value in state]
    if state is None or isinstance(state, str | bool):
        return state
    if isinstance(state, Integral):
        return int(state)
    if isinstance(state, Real) and math.isfinite(state):
        return float(state)
    shown = f"{state!r}" if isinstance(state, float) else type(state).__name__
    raise ValueError(f"holds {shown}, which a checkpoint cannot hold")


def from_plain(data: Any) -> Any:
    """Return what :func:`to_plain` was given, with lists in place of tuples."""
    if isinstance(data, Mapping):
        if data.keys() == {GROUP}:
            return group_of(map(_episode, data[GROUP]["episodes"]), data[GROUP]["step"])
        return {key: from_plain(value) for key, value in data.items()}
    return [from_plain(value) for value in data] if isinstance(data, list) else data


def _plain_episode(episode: Episode) -> dict[str, Any]:
    return {**_converter().unstructure(attrs.evolve(episode, turns=())), "turns": list(_plain_turns(episode.turns))}


def _plain_turns(turns: Iterable[Turn]) -> Iterator[dict[str, Any]]:
    before: tuple[int, ...] = ()
    for turn in turns:
        shared = len(before) if turn.prompt[: len(before)] == before else 0
        yield {"shared": shared, **_converter().unstructure(attrs.evolve(turn, prompt=turn.prompt[shared:]))}
        before = turn.prompt + turn.tokens


def _episode(data: Mapping[str, Any]) -> Episode:
    turns: list[Turn] = []
    before: tuple[int, ...] = ()
    for plain in data["turns"]:
        turn = _converter().structure(plain, Turn)
        turns.append(attrs.evolve(turn, prompt=before[: plain["shared"]] + turn.prompt))
        before = turns[-1].prompt + turn.tokens
    return attrs.evolve(_converter().structure({**data, "turns": []}, Episode), turns=tuple(turns))


@functools.cache
def _converter() -> cattrs.Converter:
    """Return a converter between episodes or turns and plain data."""
    converter = cattrs.Converter(detailed_validation=False)
    for number in (int, float):
        is_hint = functools.partial(operator.eq, tuple[number, ...])  # type: ignore[valid-type]
        converter.register_unstructure_hook_func(is_hint, _text)
        converter.register_structure_hook_func(is_hint, functools.partial(_numbers, number))
    return converter


def _numbers(number: type, text: str, _: Any) -> tuple[Any, ...]:
    return tuple(map(number, text.split()))


def _text(numbers: Iterable[float]) -> str:
    """Write numbers in the shortest spelling from which each is read back exactly."""
    return " ".join(map(repr, numbers))
