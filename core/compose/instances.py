"""Components that a program made itself, in the place of their spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .experiment import Experiment
from .inner import name_of
from .named import Named, inner_fields
from .problems import Invalid, Problem

if TYPE_CHECKING:
    from ..registry import Registry

DEEPEST = 6
"""Keys above a component: ``filter.select``, an entry of ``collapse``, a parameter of a parameter of one."""


def with_names(data: object, registry: Registry, key: str = "", depth: int = 0) -> object:
    """The same data with ``{name: NAME, PARAMETER: VALUE}`` in the place of each component.

    An experiment is written down, and read again by other processes: so a component needs a name.

    Raises:
        Invalid: no plugin registers the class of one under any name.
    """
    if isinstance(data, Mapping) and depth < DEEPEST:
        return {
            name: with_names(value, registry, f"{key}.{name}" if key else str(name), depth + 1)
            for name, value in data.items()
        }
    if isinstance(data, list | tuple) and depth < DEEPEST:
        return [with_names(value, registry, f"{key}.{number}", depth + 1) for number, value in enumerate(data)]
    if not attrs.has(type(data)) or type(data).__module__ == Experiment.__module__:  # a section may stand for itself
        return data
    return _spelled(data, registry, key)


def _spelled(component: object, registry: Registry, key: str, kind: str = "") -> dict[str, Any]:
    """Name and parameters of a component, and of those that it holds itself. Raises Invalid."""
    cls: type = type(component)
    name = name_of(cls, registry, kind)
    if not name:
        what = f"is an instance of {cls.__module__}.{cls.__qualname__}, which no plugin registers"
        fix = "register the class in a plugin file, and load it: uncollapse.registry().load_file(PATH)"
        raise Invalid(Problem(what, key, fix=fix))
    fields: list[Any] = [field for field in attrs.fields(cls) if field.init] if attrs.has(cls) else []
    parameters = {field.alias: getattr(component, field.name) for field in fields}
    for alias, value in parameters.items():
        parameters[alias] = _inner(value, registry, f"{key}.{alias}")
    return {"name": name, **parameters}


def _inner(value: object, registry: Registry, key: str) -> object:
    if isinstance(value, Named):
        if not value.plugin:
            return _spelled(value.component, registry, key, value.kind)
        cls: type = type(value.component)
        held = {alias: getattr(value.component, field.name) for alias, field in inner_fields(cls).items()}
        inside = {alias: _inner(each, registry, f"{key}.{alias}") for alias, each in held.items()}
        return {"name": value.name, **value.params, **inside}
    if isinstance(value, tuple) and any(isinstance(item, Named) for item in value):
        return [_inner(item, registry, f"{key}.{number}") for number, item in enumerate(value)]
    return value
