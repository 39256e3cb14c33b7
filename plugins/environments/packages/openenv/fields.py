"""Texts become the actions of an OpenEnv server by the schema of its actions, and its observations become texts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import attrs

from .....core.errors import nearest
from ...common import action_named

OWN = frozenset({"done", "reward", "metadata"})
"""Fields of every observation and action that are not a part of the game."""
_USUAL = ("message", "text", "action", "content")
"""Fields that take the text where there are several texts."""
_MOST = 64
"""Largest number of values that become actions with names."""

Form = Literal["text", "whole number", "number", "JSON"]
_FORMS: dict[str, Form] = {"string": "text", "integer": "whole number", "number": "number"}


class UnreadableError(ValueError):
    """A text is no action of the server."""


@attrs.frozen
class ActionForm:
    """How a text becomes an action: the value of one of its fields. The others are fixed."""

    field: str
    """Field that takes the text."""
    form: Form
    """What the text must be."""
    named: tuple[tuple[str, str], ...]
    """Names of the actions, each with its value as JSON; empty where any text may be one."""
    fixed: str
    """Other fields, as JSON."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the actions; ``None`` for free text."""
        return tuple(name for name, _ in self.named) or None

    def action(self, text: str) -> dict[str, Any]:
        """Return the fields of an action.

        Raises:
            UnreadableError: the text is not what the field takes.
            ValueError: it is none of the names.
        """
        if self.named:
            value = json.loads(dict(self.named)[action_named(text, tuple(dict(self.named)))])
        else:
            value = _value(text.strip(), self.form) if self.form != "text" else text
        return {**json.loads(self.fixed), self.field: value}


def _value(text: str, form: Form) -> Any:
    reads: dict[str, Callable[[str], Any]] = {"whole number": int, "number": float, "JSON": json.loads}
    try:
        value = reads[form](text)
    except (ValueError, RecursionError):
        value = math.nan
    if isinstance(value, float) and not math.isfinite(value):
        raise UnreadableError(f"This must be a {form}.")
    return value


def action_form(schema: Mapping[str, Any], field: str, names: Iterable[str], fixed: Mapping[str, Any]) -> ActionForm:
    """Find out how texts become actions.

    Args:
        schema: the JSON schema of actions; empty where the server tells none.
        field: the field that takes the text; empty for the one that the schema shows.
        names: names of the actions, in the order of the field's values; empty for those of the schema.
        fixed: other fields.

    Raises:
        ValueError: the schema has no such fields, leaves it open which takes the text, or needs further ones.
    """
    fields = {name: each for name, each in schema.get("properties", {}).items() if name not in OWN}
    own = schema.get("additionalProperties") is False
    for name in (*([field] if field else []), *fixed):
        if own and name not in fields:
            raise ValueError(f"the server's actions have no field {name!r}; {nearest(name, fields)}")
    field = field or _open_field(schema, fields, fixed)
    if field in fixed:
        raise ValueError(f"the field {field!r} takes the text, and fixed has it, too")
    if missing := [name for name in schema.get("required", ()) if name not in (field, *fixed, *OWN)]:
        raise ValueError(f"the server's actions need the field {missing[0]!r}: give it in fixed")
    described = _resolved(fields.get(field, {"type": "string"}), schema)
    form = _FORMS.get(str(described.get("type", "string")), "JSON")
    values = _values(described)
    named = tuple(names)
    if len(set(map(str.casefold, named))) < len(named):
        raise ValueError("names must differ in more than case")
    if named and not values:
        if form not in ("text", "whole number"):
            raise ValueError(f"the field {field!r} takes a {form}, whose values names cannot number")
        values = list(named) if form == "text" else list(range(len(named)))
    if named and len(named) != len(values):
        raise ValueError(f"the field {field!r} has {len(values)} values, and there are {len(named)} names")
    spelled = named or tuple(value if isinstance(value, str) else json.dumps(value) for value in values)
    pairs = tuple(zip(spelled, (json.dumps(value) for value in values), strict=True))
    return ActionForm(field, form, pairs, as_json("fixed", fixed))


def _open_field(schema: Mapping[str, Any], fields: Mapping[str, Any], fixed: Mapping[str, Any]) -> str:
    """Choose the field that takes the text. Raises ValueError where several could."""
    left = [name for name, each in fields.items() if name not in fixed and "const" not in each]
    needed = [name for name in left if name in schema.get("required", ())]
    usual = [name for name in _USUAL if name in (needed or left)]
    for names in (left, needed, usual[:1]):
        if len(names) == 1:
            return names[0]
    if not schema:
        raise ValueError("the server tells no schema of its actions: say which field takes the text, action=message")
    raise ValueError(f"several fields could take the text: say which with action={'|'.join(left) or '...'}")


def _resolved(described: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, and leave out that the field may be null."""
    if not isinstance(described, Mapping):
        return {}
    if "$ref" in described:
        return _resolved(schema.get("$defs", {}).get(str(described["$ref"]).rpartition("/")[2]), {})
    choices = [each for each in described.get("anyOf", ()) if each.get("type") != "null"]
    return _resolved(choices[0], schema) if len(choices) == 1 else described


def _values(described: Mapping[str, Any]) -> list[Any]:
    """Return the values of a field, where they are few."""
    if "enum" in described:
        return list(described["enum"])
    if described.get("type") == "boolean":
        return [True, False]
    if described.get("type") != "integer":
        return []
    low = described.get("minimum", described.get("exclusiveMinimum", -math.inf) + 1)
    high = described.get("maximum", described.get("exclusiveMaximum", math.inf) - 1)
    return list(range(low, high + 1)) if 0 <= high - low < _MOST else []


def shown_text(observation: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    """Write the fields of an observation: the one by itself, several each in a line with its name.

    Args:
        observation: the fields with their values.
        fields: those that are shown; empty for all.

    Raises:
        ValueError: it lacks one of them.
    """
    if missing := [name for name in fields if name not in observation]:
        raise ValueError(f"the server's observation has no field {missing[0]!r}; {nearest(missing[0], observation)}")
    chosen = fields or tuple(name for name in observation if name not in OWN)
    texts = {name: _text(observation[name]) for name in chosen}
    if len(chosen) == 1:
        return texts[chosen[0]]
    return "\n".join(f"{name}: {text}" for name, text in texts.items() if text)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_json(name: str, values: Mapping[str, Any]) -> str:
    """Write a mapping as JSON. Raises ValueError if it is no plain data."""
    try:
        return json.dumps(dict(values), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain data: {error}") from error
