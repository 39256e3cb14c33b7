"""Plain data is laid over other plain data: sections key by key, components by their parameters.

A component given with its name replaces the one that was there; a mapping without a name changes its parameters.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import nearest
from .component import component_mapping
from .experiment import Experiment, section_of
from .hints import type_hints
from .named import inner_fields
from .problems import Invalid, Problem
from .scalars import wrong
from .spec import SpecError, split_list

if TYPE_CHECKING:
    from ..registry import Registry


def merge(
    registry: Registry, base: Mapping[str, Any], over: Mapping[str, Any], cls: type = Experiment
) -> dict[str, Any]:
    """Lay ``over`` over ``base``, plain data of the section ``cls``; unknown keys stay, for structuring to find.

    Raises Invalid.
    """
    fields, hints = {field.alias: field for field in attrs.fields(cls)}, type_hints(cls)
    merged = dict(base)
    problems: list[Problem] = []
    for key, value in over.items():
        if key not in fields:
            merged[key] = value
            continue
        try:
            merged[key] = _merge_field(registry, fields[key], hints[key], base, value)
        except Invalid as error:
            problems += [problem.under(key) for problem in error.problems]
    if problems:
        raise Invalid(*problems)
    return merged


def _merge_field(registry: Registry, field: Any, hint: object, base: Mapping[str, Any], value: object) -> object:
    kind = field.metadata.get("kind")
    below = base.get(field.alias)
    if value is None and typing.get_origin(hint) is dict:
        return {}
    if not isinstance(value, Mapping):
        return value
    if kind:
        below = field.default if field.alias not in base else below
        if field.metadata.get("many"):
            return _merge_list(registry, kind, below, value)
        if "name" in value or below in (None, attrs.NOTHING):
            return value
        return merge_component(registry, kind, below, value)
    section = section_of(hint)
    if section is None and typing.get_origin(hint) is not dict:
        return value  # structuring says what it is
    if not isinstance(below, Mapping | None):
        raise wrong(below, "a mapping of keys to values, to change one of them")
    return merge(registry, below or {}, value, section) if section else {**(below or {}), **value}


def merge_component(registry: Registry, kind: str, below: object, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change parameters of the component that ``below`` spells, as a mapping; those that are components merge too.

    Raises Invalid.
    """
    merged = component_mapping(registry, kind, below)
    problems: list[Problem] = []
    fields = inner_fields(registry.resolve(kind, merged["name"]))
    for key, value in changes.items():
        try:
            merged[key] = _merge_field(registry, fields[key], Any, merged, value) if key in fields else value
        except Invalid as error:
            problems += [problem.under(key) for problem in error.problems]
    if problems:
        raise Invalid(*problems)
    return merged


def _merge_list(registry: Registry, kind: str, below: object, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Change parameters of components in a list, by their names: ``collapse.empty_filter.steps=3``."""
    try:
        items = split_list(below) if isinstance(below, str) else below
    except SpecError as error:
        raise Invalid(Problem(error.what, value=below, fix=error.fix)) from error
    if not isinstance(items, list | tuple):
        raise wrong(below, "a list of components")
    spelled = {item["name"]: item for item in (component_mapping(registry, kind, item) for item in items)}
    problems = []
    for name, params in changes.items():
        if name not in spelled:
            problems.append(Problem("is not in the list", name, fix=nearest(name, spelled)))
        elif not isinstance(params, Mapping):
            problems.append(Problem("must be a mapping of parameters to values", name, params))
        else:
            spelled[name] = merge_component(registry, kind, spelled[name], params)
    if problems:
        raise Invalid(*problems)
    return list(spelled.values())
