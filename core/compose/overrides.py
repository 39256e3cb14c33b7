"""Overrides: values of dotted keys that are put over an experiment, as ``"kl.coef=0.01"`` or as a mapping."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .instances import with_names
from .problems import Invalid, Problem, show
from .spec import SpecError, parse_value

if TYPE_CHECKING:
    from ..registry import Registry

DEEPEST_KEY = 16
"""Dots of an override's key."""
Overrides = Iterable[str] | Mapping[str, Any]


def read_overrides(overrides: Overrides, registry: Registry) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Each override as a nested mapping, and the problems of those that cannot be read."""
    pairs: list[tuple[str, Any]] = []
    problems: list[Problem] = []
    overrides = [overrides] if isinstance(overrides, str) else overrides
    for item in overrides.items() if isinstance(overrides, Mapping) else overrides:
        try:
            pairs.append(read_override(item, registry))
        except Invalid as error:
            problems += error.problems
    return nest(pairs), problems


def settings(words: Iterable[str], registry: Registry) -> dict[str, Any]:
    """Values by dotted key of ``KEY=VALUE`` texts, in the order in which they count: of a key given twice the later.

    Raises:
        RequestError: one of them cannot be read.
    """
    changes: dict[str, Any] = {}
    for word in words:
        try:
            key, value = read_override(word, registry)
        except Invalid as error:
            problem = error.problems[0]
            raise RequestError(problem.reason, problem.key, problem.fix) from error
        changes.pop(key, None)
        changes[key] = value
    return changes


def read_override(item: str | tuple[object, object], registry: Registry) -> tuple[str, Any]:
    """The dotted key and the value of ``"kl.coef=0.01"``, or of a key with plain data or components. Raises Invalid."""
    text: Any
    key, equals, text = item.partition("=") if isinstance(item, str) else (str(item[0]), "=", item[1])
    key = key.strip()
    try:
        if not equals or not key:
            raise SpecError(f"the override {show(item)} has no {'value' if key else 'key'}", fix="write KEY=VALUE")
        if not all(part.strip() for part in key.split(".")):
            raise SpecError("an empty name stands in the key", fix="write names with single dots between them")
        if key.count(".") > DEEPEST_KEY:
            raise SpecError(f"the key has more than {DEEPEST_KEY} dots")
        value = parse_value(text) if isinstance(item, str) else with_names(text, registry, key)
    except SpecError as error:
        raise Invalid(Problem(error.what, key, fix=error.fix)) from error
    return key, value


def nest(pairs: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    """Each (dotted key, value) as a nested mapping."""
    nested = []
    for key, value in pairs:
        for part in reversed(key.split(".")):
            value = {part: value}
        nested.append(value)
    return nested
