"""An axis is a dotted key with its values, given as text on a command line or as a list."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ...core.compose.experiment import keys
from ...core.compose.plain_data import plain
from ...core.compose.problems import show
from ...core.compose.spec import SpecError, parse_value, split_list
from ...core.compose.spellings import full, is_key
from ...core.errors import RequestError, nearest
from ...core.registry import Registry
from ...core.runs.labels import label_of, text_of
from .overridden_keys import decided

MOST = 10_000
"""Points of a sweep, and values of an axis: more are a slip of the pen, and would be composed for hours."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@attrs.frozen
class Choice:
    """A choice is one value of one axis."""

    axis: str
    overrides: dict[str, Any]
    text: str
    label: str
    decided: frozenset[str]
    """Keys that it decides, however they are spelled."""


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Read ``NAME=VALUES`` as typed on a command line into the name and its values. Raises SpecError."""
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"the axis {text!r} has no values", fix="write NAME=VALUE,VALUE,... or NAME=FIRST..LAST")
    return name.strip(), axis_values(name.strip(), values)


def axis_values(name: str, values: Any) -> list[Any]:
    """Return the values of an axis, from a list or from one text. Raises SpecError."""
    if isinstance(values, str):
        items: list[Any] = [item if _RANGE.fullmatch(item) else parse_value(item) for item in split_list(values)]
    elif isinstance(values, Sequence):
        items = list(values)
    else:
        items = [values]
    expanded = list(itertools.chain.from_iterable(_range(name, item) for item in items))
    if not expanded:
        raise SpecError(f"the axis {name} has no values")
    if len(expanded) > MOST:
        raise SpecError(f"the axis {name} has {len(expanded)} values", fix=f"give it at most {MOST}")
    return expanded


def _range(name: str, item: Any) -> Sequence[Any]:
    match = _RANGE.fullmatch(item.strip()) if isinstance(item, str) else None
    if not match:
        return [item]
    if max(map(len, match.groups())) > 20:
        raise SpecError(f"the axis {name} has a range with numbers of {max(map(len, match.groups()))} digits")
    first, last = map(int, match.groups())
    if last < first:
        raise SpecError(f"the axis {name} has no values in {item.strip()}", fix=f"write {last}..{first}")
    if last - first >= MOST:
        raise SpecError(f"the axis {name} has {last - first + 1} values", fix=f"give it at most {MOST}")
    return range(first, last + 1)


def choices(registry: Registry, name: str, values: Any) -> list[Choice]:
    """Say what each value of an axis stands for. Raises RequestError if it cannot be read."""
    items = axis_values(name, values)
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1:
        if len(set(map(full, names))) < len(names):
            raise RequestError(f"the axis {name} names a key twice")
        for item in items:
            if not isinstance(item, list | tuple) or len(item) != len(names):
                raise RequestError(f"the axis {name} takes lists of {len(names)} values, not {show(plain(item))}")
        settings = [dict(zip(names, item, strict=True)) for item in items]
    elif not is_key(name) and all(isinstance(item, Mapping) for item in items):
        settings = [{str(key): value for key, value in item.items()} for item in items]
    else:
        settings = [{name: item} for item in items]
    _refuse_unknown_keys(f"the axis {name}", settings)
    # a single key is told by its value alone, several keys also by their names
    single = all(list(overrides) == [name] for overrides in settings)
    return [
        Choice(
            name,
            overrides,
            text_of(overrides[name]) if single else _joint_text(overrides),
            label_of(overrides),
            decided(registry, overrides),
        )
        for overrides in settings
    ]


def _joint_text(overrides: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={text_of(value)}" for key, value in overrides.items())


def _refuse_unknown_keys(what: str, settings: Iterable[Mapping[str, Any]]) -> None:
    for key in {key for overrides in settings for key in overrides}:
        if not is_key(key):
            raise RequestError(f"{what} changes {key!r}, which is no key of an experiment", fix=nearest(key, keys()))
