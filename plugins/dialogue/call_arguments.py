"""The arguments of a call are checked against the JSON schema of its tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
    "null": lambda value: value is None,
}
_LONGEST = 64
"""The number of characters of a name, or of a value, that a message repeats to the model."""


def short(text: str) -> str:
    """Return the beginning of what a model wrote, which may be of any length."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def objection(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return what is wrong with arguments, or an empty text.

    Args:
        arguments: the arguments by their names.
        parameters: a JSON schema; its keys ``type``, ``properties``, ``required``, ``items``, ``enum``, ``anyOf`` and
            ``nullable`` are read.
    """
    properties: Mapping[str, Any] = parameters.get("properties", {})
    if missing := [name for name in parameters.get("required", ()) if name not in arguments]:
        return f"the argument {missing[0]!r} is missing"
    if extra := [name for name in arguments if name not in properties]:
        known = ", ".join(map(repr, properties)) or "none"
        return f"there is no argument {short(extra[0])!r}; the arguments are {known}"
    for name, value in arguments.items():
        if not _fits(value, properties[name]):
            return f"the argument {name!r} must be {_said(properties[name])}, not {short(json.dumps(value))}"
    return ""


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    if value is None and schema.get("nullable"):
        return True
    if "enum" in schema and not any(value == each and type(value) is type(each) for each in schema["enum"]):
        return False
    if "anyOf" in schema and not any(_fits(value, each) for each in schema["anyOf"]):
        return False
    if (names := _types(schema)) and not any(_TYPES[name](value) for name in names if name in _TYPES):
        return False
    if isinstance(value, list):
        return all(_fits(item, schema.get("items") or {}) for item in value)
    if isinstance(value, Mapping) and "properties" in schema:
        return not objection(value, schema)
    if isinstance(value, Mapping) and isinstance(schema.get("additionalProperties"), Mapping):
        return all(_fits(item, schema["additionalProperties"]) for item in value.values())
    return True


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    names = schema.get("type", ())
    return [names] if isinstance(names, str) else list(names)


def _said(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(json.dumps, schema['enum']))}"
    if "anyOf" in schema:
        return " or ".join(_said(each) for each in schema["anyOf"])
    return " or ".join(_types(schema)) or "something else"
