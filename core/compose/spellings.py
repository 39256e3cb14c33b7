"""Short spellings of keys: what files, overrides and axes may write for a key of a section.

They are written out where plain data is read, so that no section, hash or record has more than one spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs

from .experiment import keys
from .problems import ABSENT, Problem

SHORT = {"entropy_coeff": "entropy.coef"}
"""Key at the top of an experiment -> the key that it stands for."""
WORDS: dict[tuple[str, str], dict[str, Any]] = {("model", "warm_start"): {"off": None, "demonstrations": {}}}
"""Section and key -> words for whole values."""


def full(key: str) -> str:
    """The dotted key that a dotted key stands for."""
    head, dot, below = key.partition(".")
    return f"{SHORT.get(head, head)}{dot}{below}"


def is_key(dotted: str) -> bool:
    """Whether an experiment has the key, or the section that it begins with."""
    return full(dotted).partition(".")[0] in keys()


def written_out(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of an experiment, with the keys that the short spellings in it stand for."""
    data = {key: value for key, value in layer.items() if key not in SHORT}
    for short in SHORT.keys() & layer.keys():
        section, _, name = SHORT[short].partition(".")
        below = data.get(section, {})
        if isinstance(below, Mapping):  # structuring says what is wrong with anything else
            data[section] = {**below, name: layer[short]}
    for (section, name), values in WORDS.items():
        below = data.get(section)
        if isinstance(below, Mapping) and isinstance(word := below.get(name), str) and word in values:
            data[section] = {**below, name: values[word]}
    return data


def given_twice(layers: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    """Keys to which the same file, or the same overrides, give one value by the short spelling and another by the long.

    Of several values of one spelling the last counts.
    """
    for short, key in SHORT.items():
        by_short = [layer[short] for layer in layers if short in layer]
        by_key = [value for layer in layers if (value := _at(layer, key)) is not ABSENT]
        if by_short and by_key and by_short[-1] != by_key[-1]:
            reason = f"is the short spelling of {key}, which is given another value, {by_key[-1]!r}"
            yield Problem(reason, short, by_short[-1], "keep one of them")


def as_written(problems: Iterable[Problem], layers: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """The problems, with a key as the layers spell it."""
    last = {}
    for layer in layers:
        for short, key in SHORT.items():
            if short in layer:
                last[key] = short
            elif _at(layer, key) is not ABSENT:
                last.pop(key, None)
    return [attrs.evolve(problem, key=last.get(problem.key, problem.key)) for problem in problems]


def _at(layer: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    below = layer.get(section)
    return below.get(name, ABSENT) if isinstance(below, Mapping) else ABSENT
