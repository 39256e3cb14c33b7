"""A JSON schema that says more than the types of a Python function is left to the package ``jsonschema``."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

_PLAIN = frozenset(
    (
        *("type", "properties", "required", "items", "enum", "anyOf", "nullable", "additionalProperties"),
        *("title", "description", "default", "examples", "format", "$schema", "$id", "$comment", "deprecated"),
    )
)
"""The keys of a schema that are read without the package, or that hold no value to anything."""


def is_plain(schema: Any) -> bool:
    """Say whether a schema has no other keys than those of a Python function's parameters."""
    if not isinstance(schema, Mapping):
        return True
    return _PLAIN.issuperset(schema) and all(is_plain(part) for part in _parts(schema))


def _parts(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the schemas that are parts of a plain one."""
    properties = schema.get("properties")
    yield from properties.values() if isinstance(properties, Mapping) else ()
    yield from (schema.get("items"), schema.get("additionalProperties"))
    options = schema.get("anyOf")
    yield from options if isinstance(options, list) else ()


def told_by_jsonschema(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """Return what the package says is wrong with arguments; an empty text if nothing is.

    So it is without the package, and where the schema cannot be used: the tool then has to say it.
    """
    if find_spec("jsonschema") is None:
        return ""
    from jsonschema.exceptions import UnknownType, ValidationError, best_match
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(_validator(json.dumps(parameters)).iter_errors(dict(arguments)))
    except (Unresolvable, UnknownType, RecursionError, TypeError, ValueError, AttributeError):
        return ""
    if not isinstance(error, ValidationError):
        return ""
    place = "".join(f"[{part!r}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    return f"the argument {place!r}: {error.message[:200]}" if place else error.message[:200]


@functools.lru_cache(256)
def _validator(schema: str) -> Any:
    from jsonschema import validators
    from referencing import Registry

    read = json.loads(schema)
    cls = validators.validator_for(read, default=validators.Draft202012Validator)
    return cls(read, registry=Registry())  # one that finds nothing on the network
