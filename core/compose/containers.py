"""Hooks of the converter read unions, lists and mappings."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cattrs
from cattrs.cols import list_structure_factory, mapping_structure_factory
from cattrs.errors import BaseValidationError

from .problems import Invalid, Problem, gathered, show
from .scalars import wrong

Hook = Callable[[Any, Any], Any]
"""A function of a value and a type hint: what the value is read as. It raises :class:`Invalid`."""


def origin(hint: object) -> object:
    """The class that a hint is about: ``tuple`` for ``tuple[int, ...]`` and for ``tuple``."""
    return typing.get_origin(hint) or hint


def union(converter: cattrs.Converter, value: object, hint: Any) -> Any:
    """The value as the first type of a union that takes it. Raises Invalid with what each of them asks for."""
    members = [member for member in typing.get_args(hint) if member is not type(None)]
    optional = len(members) < len(typing.get_args(hint))
    if value is None and optional:
        return None
    if len(members) == 1:
        return converter.structure(value, members[0])
    reasons = []
    for member in members:
        try:
            return converter.structure(value, member)
        except Invalid as error:
            reasons += [problem.reason.removeprefix("must be ") for problem in error.problems]
    raise wrong(value, ", or ".join(dict.fromkeys(reasons)))


def sequence(converter: cattrs.Converter, hint: Any) -> Hook:
    """A hook for lists and tuples; a tuple without an ellipsis has one item of each of its types."""
    outer, items = origin(hint), typing.get_args(hint)
    fixed = outer is tuple and items != () and items[-1] is not Ellipsis
    of_items: Any = types.GenericAlias(list, items[:1] or (Any,))
    read_items = list_structure_factory(of_items, converter)

    def read(value: object, _: object) -> Any:
        if not isinstance(value, list | tuple):
            raise wrong(value, "a list", f"write [{show(value)}]" if isinstance(value, str | int | float) else "")
        if fixed and len(value) != len(items):
            raise wrong(value, f"a list of {len(items)}")
        try:
            values = _each(converter, value, items) if fixed else read_items(value, hint)
        except BaseValidationError as group:
            raise gathered(group, value) from None
        return values if outer is list else tuple(values)

    return read


def _each(converter: cattrs.Converter, values: Sequence[Any], hints: Sequence[Any]) -> list[Any]:
    """Read every value as the hint in its place."""
    read: list[Any] = []
    problems: list[Problem] = []
    for index, (value, hint) in enumerate(zip(values, hints, strict=True)):
        try:
            read.append(converter.structure(value, hint))
        except Invalid as error:
            problems += [problem.under(str(index)) for problem in error.problems]
    if problems:
        raise Invalid(*problems)
    return read


def mapping(converter: cattrs.Converter, hint: Any) -> Hook:
    """A hook for mappings; their keys are text."""
    item = (*typing.get_args(hint), Any, Any)[1]
    read_items = mapping_structure_factory(dict[Any, item], converter)  # type: ignore[valid-type]

    def read(value: object, _: object) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise wrong(value, "a mapping of keys to values")
        require_text_keys(value)
        try:
            return dict(read_items(value, hint))
        except BaseValidationError as group:
            raise gathered(group, value) from None

    return read


def require_text_keys(value: Mapping[Any, Any]) -> None:
    """Raises Invalid with every key that is not text."""
    if odd := [key for key in value if not isinstance(key, str)]:
        raise Invalid(*(Problem(f"the key {show(key)} is not text", fix="put it in quotes") for key in odd))


def unreadable(hint: Any) -> Hook:
    """A hook for a type that nothing else reads: every value is refused."""

    def read(value: object, _: object) -> Any:
        raise Invalid(Problem(f"has a type that no file can hold: {hint}", value=value))

    return read
