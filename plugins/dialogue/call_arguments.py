"""The arguments of a call are checked against the JSON schema of its tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .call_schemas import is_plain, told_by_jsonschema

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

    The schema of a Python function is read here. One that says more, as those of MCP servers may, is also left to the
    package ``jsonschema``, where it is installed. An argument that the schema does not name is refused, unless the
    schema says that there may be others, or names none.

    Args:
        arguments: the arguments by their names.
        parameters: a JSON schema; its keys ``type``, ``properties``, ``required``, ``items``, ``enum``, ``anyOf``,
            ``additionalProperties`` and ``nullable`` are read here.
    """
    found = _members(arguments, parameters)
    return found if found or is_plain(parameters) else told_by_jsonschema(arguments, parameters)


def _members(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what is wrong with the members of an object, or an empty text."""
    if missing := [name for name in _listed(schema.get("required")) if name not in arguments]:
        return f"the argument {missing[0]!r} is missing"
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        properties = {}
    others = schema.get("additionalProperties", "properties" not in schema)
    is_open = others not in (False, None) or "patternProperties" in schema
    for name, value in arguments.items():
        if name not in properties and not is_open:
            known = ", ".join(map(repr, properties)) or "none"
            return f"there is no argument {short(name)!r}; the arguments are {known}"
        member = properties.get(name, {} if "patternProperties" in schema else others)
        if not _fits(value, member):
            return f"the argument {short(name)!r} must be {_said(member)}, not {short(json.dumps(value))}"
    return ""


def _fits(value: Any, schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False  # a schema may be true or false, too
    if value is None and schema.get("nullable"):
        return True
    if "enum" in schema and not any(value == each and type(value) is type(each) for each in _listed(schema["enum"])):
        return False
    if "anyOf" in schema and not any(_fits(value, each) for each in _listed(schema["anyOf"])):
        return False
    if (names := _types(schema)) and not any(name not in _TYPES or _TYPES[name](value) for name in names):
        return False
    if isinstance(value, list):
        return all(_fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, Mapping) and ("properties" in schema or "additionalProperties" in schema):
        return not _members(value, schema)
    return True


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    names = schema.get("type")
    return [names] if isinstance(names, str) else _listed(names)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _said(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "left out"  # it is false
    if "enum" in schema:
        return f"one of {', '.join(map(json.dumps, _listed(schema['enum'])))}"
    if "anyOf" in schema:
        return " or ".join(_said(each) for each in _listed(schema["anyOf"]))
    return " or ".join(_types(schema)) or "something else"
