"""The plain data of an experiment: what one is written as, and the bounds of what one is composed from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..yaml import DEPTH, WHOLE
from .named import Named
from .problems import Problem, show
from .scalars import text_reason

VALUES = 100_000
"""Values altogether; what stands in two places counts twice."""
ENTRIES = 1000
"""Keys of one mapping."""


def plain(value: object) -> Any:
    """The plain data (mappings, lists, text, numbers) that structures back to an equal value."""
    if value is None or isinstance(value, str | int | float):  # most values are: they come first for speed
        return value
    if isinstance(value, Named):
        return {"name": value.name, **plain(value.params)} if value.params else value.name
    if attrs.has(cls := type(value)):
        return {field.alias: plain(getattr(value, field.name)) for field in attrs.fields(cls) if field.init}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def plain_problems(data: object, key: str = "") -> list[Problem]:
    """What no experiment can hold: too much, too deep, or what neither a file nor a path nor a number type takes.

    Never recurses, so that neither depth nor self-reference can exhaust the stack; what is found is found in bounded
    work.
    """
    problems: list[Problem] = []
    waiting: list[tuple[str, Any, int]] = [(key, data, 0)]
    count = 0
    while waiting:
        place, value, depth = waiting.pop()
        count += 1
        if count > VALUES:
            return [*problems, Problem(f"the experiment holds more than {VALUES} values")]
        if reason := _scalar_reason(value):
            problems.append(Problem(reason, place, value))
        if not isinstance(value, Mapping | list | tuple):
            continue
        if depth >= DEPTH:
            return [*problems, Problem(f"is nested more than {DEPTH} levels deep", place[:80])]
        if isinstance(value, Mapping) and (wrong := list(_key_problems(value, place))):
            problems += wrong
            continue
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        waiting += [(f"{place}.{name}" if place else str(name), item, depth + 1) for name, item in items]
    return problems


def _scalar_reason(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > WHOLE:
        return f"is a whole number of more than {WHOLE} bits"
    return text_reason(value) if isinstance(value, str) else ""


def _key_problems(mapping: Mapping[Any, Any], place: str) -> Iterator[Problem]:
    if len(mapping) > ENTRIES:
        yield Problem(f"has more than {ENTRIES} keys", place)
        return
    for key in mapping:
        if not isinstance(key, str):
            yield Problem(f"the key {show(key)} is not text", place, fix="put it in quotes")
        elif reason := _scalar_reason(key):
            yield Problem(f"has a key that {reason}", place, key)
