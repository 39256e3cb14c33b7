"""What the points of a sweep are called: labels, which are names of directories, and titles, which people read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..compose.experiment import keys
from ..compose.plain_data import plain
from ..compose.spec import SpecError, format_value, read_spec

LABEL_LENGTH = 120
"""Characters of a label, which is the name of a directory."""
CASE = "case"
"""The axis of cases that say no place of their own."""


def label_of(overrides: Mapping[str, Any]) -> str:
    """``top_p_0.9__kl.coef_0.01``: a component by its own name, anything else after its key."""
    parts = []
    for key, value in overrides.items():
        field = keys().get(key)
        named = field is not None and "kind" in field.metadata and value is not None
        parts.append(safe(text_of(value) if named else f"{key}={text_of(value)}"))
    return "__".join(parts)


def text_of(value: object) -> str:
    """Spell a value, equal ones alike; a component in one word."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(read_spec(value))
    if isinstance(value, str):
        try:
            return str(read_spec(value))
        except SpecError:
            return value
    return format_value(plain(value))


def safe(text: str) -> str:
    """The text as the name of a file: letters, digits and ``. + -``, with ``_`` for everything else."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_.") or "_"


def titles(labels: Sequence[str], places: Sequence[Mapping[str, str]]) -> list[str]:
    """``kl 0.01, seed 0``: the place of each point on the axes that vary, where that tells all points apart.

    Args:
        labels: label of each point, which stays its title otherwise.
        places: axis -> value of each point.
    """
    varied = [axis for axis in dict.fromkeys(axis for place in places for axis in place) if _varies(axis, places)]
    words = [", ".join(_word(axis, place[axis]) for axis in varied if axis in place) for place in places]
    return list(labels) if "" in words or len(set(words)) < len(words) else words


def _varies(axis: str, places: Sequence[Mapping[str, str]]) -> bool:
    return len(places) == 1 or len({place.get(axis) for place in places}) > 1


def _word(axis: str, value: str) -> str:
    """Cases and keys that move together tell their own names."""
    return value if axis == CASE or f"{axis.split(',')[0].strip()}=" in value else f"{axis} {value}"
