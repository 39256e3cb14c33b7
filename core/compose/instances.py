"""Components that a program made itself, in the place of their spellings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from ..kinds import KINDS
from .experiment import Experiment
from .problems import Invalid, Problem

if TYPE_CHECKING:
    from ..registry import Registry

DEEPEST = 4
"""Keys above a component: ``filter.select``, ``rollout.engine``, an entry of ``collapse``."""


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
    cls: type = type(data)
    name = _name(cls, registry)
    if not name:
        what = f"is an instance of {cls.__module__}.{cls.__qualname__}, which no plugin registers"
        fix = "register the class in a plugin file, and load it: uncollapse.registry().load_file(PATH)"
        raise Invalid(Problem(what, key, fix=fix))
    parameters: list[Any] = [field for field in attrs.fields(cls) if field.init]
    return {"name": name, **{field.alias: getattr(data, field.name) for field in parameters}}


def _name(cls: type, registry: Registry) -> str:
    """The name under which a class is registered; empty if it is not."""
    for kind in KINDS.values():
        for entry in registry.entries(kind.name) if kind.is_component else ():
            if entry.target is cls:
                return entry.name
            if isinstance(entry.target, str) and entry.target == f"{cls.__module__}:{cls.__qualname__}":
                return entry.name
    return ""
