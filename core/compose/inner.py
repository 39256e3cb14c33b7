"""Components inside of components: the fields of a component that hold others, made by :func:`~.fields.component`.

Such a field takes whatever a key of an experiment takes: a name, a spelling, a mapping, or a component that a program
has made. What the component finds in it is a :class:`~.experiment.Named`, or a tuple of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ..kinds import KINDS
from ..registry import Registry, registry
from ..targets import breach
from .converter import make_converter, structure_component
from .named import Named, inner, inner_fields
from .plain_data import plain
from .problems import Invalid
from .spec import SpecError, split_list


def with_inner(component: Any, change: Callable[[Named], Named]) -> Any:
    """The component with each one that it holds changed; those further down are the affair of ``change``."""
    changed: dict[str, Any] = {}
    cls: type = type(component)
    for alias, field in inner_fields(cls).items():
        held = getattr(component, field.name)
        if isinstance(held, Named):
            changed[alias] = change(held)
        elif held:
            changed[alias] = tuple(change(named) for named in held)
    return attrs.evolve(component, **changed) if changed else component


def refuse_itself(component: Any, why: str) -> None:
    """Raise ValueError where a component holds another one of its own class, however deep, for the reason ``why``."""
    inside = [named for _, named in inner(component)]
    for named in inside:  # grows while it is read
        if isinstance(named.component, type(component)):
            raise ValueError(f"holds {named.name}, which is the same once more: {why}; leave one of them out")
        inside += [held for _, held in named.inner]


def checked_inner(named: Named, component: Any, checked: Mapping[str, Callable[[Named], Any]]) -> Any:
    """``component``, which is that of ``named``, with each one that it holds in what checks those of its kind.

    ``checked`` makes that: kind -> a class that is given the :class:`Named`, and does the same for what is inside.
    """
    outer = f"{named.kind} {named.name!r}{f', in {named.within}' if named.within else ''}"

    def check(held: Named) -> Named:
        held = attrs.evolve(held, within=outer)
        if held.kind in checked:
            return attrs.evolve(held, component=checked[held.kind](held))
        return attrs.evolve(held, component=checked_inner(held, held.component, checked))

    return with_inner(component, check)


def named_of(kind: str, value: object, field: str) -> Named:
    """What ``field``, for a component of ``kind``, holds of what a program gives it.

    Raises:
        ValueError: it is no such component, nor the spelling of one.
        MissingExtraError: it needs a library of an extra that is not installed.
    """
    if isinstance(value, Named) and value.kind == kind:
        return value
    if isinstance(value, str | Mapping):
        try:
            return structure_component(make_converter(registry()), registry(), kind, value)
        except Invalid as error:
            raise ValueError("; ".join(str(problem.under(field)) for problem in error.problems)) from error
    if isinstance(value, Named | type) or value is None or breach(kind, type(value)):
        raise ValueError(f"{field} must be a component of the kind {kind}, its name or its spelling, not {value!r}")
    cls = type(value)
    name = name_of(cls, registry(), kind)
    plugin = str(registry().entry(kind, name).plugin) if name else ""
    params = plain(value) if attrs.has(cls) else {}
    return Named(kind, name or cls.__name__, params, value, plugin)


def all_named(kind: str, values: object, field: str) -> tuple[Named, ...]:
    """The same for a list of components of ``kind``, or the text that spells one. Raises ValueError."""
    try:
        items = split_list(values) if isinstance(values, str) else values
    except SpecError as error:
        raise ValueError(f"{field}: {error}") from error
    if not isinstance(items, list | tuple):
        raise ValueError(f"{field} must be a list of components of the kind {kind}, not {values!r}")
    return tuple(named_of(kind, item, field) for item in items)


def name_of(cls: type, registry: Registry, kind: str = "") -> str:
    """The name under which a class is registered, of whatever kind or of ``kind``; empty if it is not."""
    for each in (KINDS[kind],) if kind else KINDS.values():
        for entry in registry.entries(each.name) if each.is_component else ():
            if entry.target is cls:
                return entry.name
            if isinstance(entry.target, str) and entry.target == f"{cls.__module__}:{cls.__qualname__}":
                return entry.name
    return ""
