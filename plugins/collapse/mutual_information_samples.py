"""The thoughts of a step's turns are drawn here, with the prompts after which each of them is scored.

Prompts and thoughts are the sampled token ids themselves; text is only used to see where a thought ends.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from random import Random
from typing import Any

import attrs

from ...core.components import Rollouts

Tokens = tuple[int, ...]


@attrs.frozen
class Turn:
    """A turn, as far as its thought is scored."""

    episode: int
    """Index of the episode."""
    group: int
    """Id of the group."""
    number: int
    """Number of the turn in its episode, from 0."""
    prompt: Tokens
    """Tokens before the first sampled one; they end with the forced opening."""
    thought: Tokens
    """Sampled tokens before the first that belongs to the tag; empty if there is no valid thought."""


@attrs.frozen
class Pairs:
    """Pairs are reasonings and the columns that they are scored against."""

    reasonings: list[Tokens]
    """Thoughts that were drawn."""
    columns: list[Tokens]
    """Prompts of the columns."""
    matched: list[int]
    """Column of each reasoning's own prompt."""
    tasks: list[Tokens]
    """Task of each column, as the first prompt of its episode."""


def turns_of(rollouts: Rollouts, tokenizer: Any, tag: str, last: bool = False) -> list[Turn]:
    """List every sampled turn, in the order of rows; ``tag`` and ``last`` are those of :func:`thought`."""
    turns = []
    rows = zip(
        rollouts.tokens.tolist(),
        rollouts.turns.tolist(),
        rollouts.episodes.tolist(),
        rollouts.groups.tolist(),
        strict=True,
    )
    for tokens, numbers, episode, group in rows:
        for number, span in groupby(range(len(numbers)), key=numbers.__getitem__):
            positions = list(span)
            if number >= 0:
                sampled = tokens[positions[0] : positions[-1] + 1]
                prompt = tuple(tokens[: positions[0]])
                turns.append(Turn(episode, group, number, prompt, thought(sampled, tokenizer, tag, last)))
    return turns


def thought(sampled: Sequence[int], tokenizer: Any, tag: str, last: bool = False) -> Tokens:
    """Return the leading tokens that lie wholly before ``tag``; empty without it, or with only space before it.

    A token that contains the tag's first letter and something before it is left out. An empty ``tag`` ends no thought.
    Of several tags the first ends the thought, or with ``last`` the last one.
    """

    def text(start: int, end: int) -> str:
        return str(tokenizer.decode(list(sampled[start:end]), clean_up_tokenization_spaces=False))

    count = len(sampled)
    if not tag or tag not in text(0, count):
        return ()
    # end: the least number of tokens whose text has the whole tag; start: the last token from which it still has it
    end = count if last else bisect_left(range(count), True, key=lambda length: tag in text(0, length))
    start = next(start for start in reversed(range(end)) if tag in text(start, end))
    return tuple(sampled[:start]) if text(0, start).strip() else ()


def identical(turns: Sequence[Turn]) -> dict[str, float]:
    """Return which share of the pairs of valid thoughts are the same tokens.

    ``across_prompts`` is the share of the pairs whose prompts differ; groups that were given the same prompt are no
    different prompts. ``within_prompt`` is that of the pairs with one prompt, which says how often a thought repeats
    itself anyway. A share without pairs is left out.
    """
    valid = _valid(turns)
    pairs = len(valid) * (len(valid) - 1) // 2
    within = _equal_pairs([turn.prompt for turn in valid])
    same = _equal_pairs([turn.thought for turn in valid])
    same_within = _equal_pairs([(turn.prompt, turn.thought) for turn in valid])
    counts = {"across_prompts": (same - same_within, pairs - within), "within_prompt": (same_within, within)}
    return {name: equal / total for name, (equal, total) in counts.items() if total}


def _equal_pairs(values: Sequence[Any]) -> int:
    """Count the pairs of equal values."""
    return sum(count * (count - 1) // 2 for count in Counter(values).values())


# --- draws ----------------------------------------------------------------------------------------------------------


def first_turns(turns: Sequence[Turn], size: int, rng: Random) -> Pairs:
    """Draw first turns with a valid thought, without replacement; a column is a distinct prompt of a group.

    If all members of a group have the same first prompt, there is one column per group that was drawn.
    """
    drawn = _without_replacement([turn for turn in turns if turn.number == 0], size, rng)
    return _pairs(turns, drawn, key=lambda turn: (turn.group, turn.prompt))


def trajectories(turns: Sequence[Turn], size: int, rng: Random) -> Pairs:
    """Draw an episode, with replacement, then one of its turns with a valid thought; every draw is a separate column.

    There are as many draws as turns, at most ``size``; a draw of an episode without a valid thought gives nothing.
    """
    episodes: dict[int, list[Turn]] = {turn.episode: [] for turn in turns}
    for turn in _valid(turns):
        episodes[turn.episode].append(turn)
    numbers = sorted(episodes)
    chosen = (episodes[rng.choice(numbers)] for _ in range(min(size, len(turns))))
    return _pairs(turns, [rng.choice(valid) for valid in chosen if valid])


def uniform_turns(turns: Sequence[Turn], size: int, rng: Random) -> Pairs:
    """Draw turns with a valid thought, without replacement; every draw is a separate column."""
    return _pairs(turns, _without_replacement(turns, size, rng))


def _valid(turns: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in turns if turn.thought]


def _without_replacement(turns: Sequence[Turn], size: int, rng: Random) -> list[Turn]:
    valid = _valid(turns)
    return rng.sample(valid, min(size, len(valid)))


def _pairs(turns: Sequence[Turn], drawn: Sequence[Turn], key: Callable[[Turn], Any] | None = None) -> Pairs:
    """Make the columns of drawn turns: turns with the same key share one; without a key each turn has its own."""
    tasks = {turn.episode: turn.prompt for turn in turns if turn.number == 0}
    keys = [key(turn) if key else index for index, turn in enumerate(drawn)]
    columns = dict(zip(keys, drawn, strict=True))
    column_numbers = {column: number for number, column in enumerate(columns)}
    return Pairs(
        reasonings=[turn.thought for turn in drawn],
        columns=[turn.prompt for turn in columns.values()],
        matched=[column_numbers[column] for column in keys],
        tasks=[tasks[turn.episode] for turn in columns.values()],
    )
