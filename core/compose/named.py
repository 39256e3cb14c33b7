"""A component by its name: what an experiment holds where it names one, and what a component holds of others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from .spec import Spec


@attrs.frozen
class Named:
    """A component that an experiment names: the name, its parameters, and the component itself."""

    kind: str
    name: str
    params: dict[str, Any] = attrs.field(factory=dict, hash=False)
    """Every parameter as plain data, the defaults included."""
    component: Any = attrs.field(default=None, eq=False, repr=False)
    plugin: str = attrs.field(default="", eq=False, repr=False)
    """Who registered it, in words."""
    within: str = attrs.field(default="", eq=False, repr=False)
    """The component that holds it, in words; empty where it stands in the experiment itself."""

    @property
    def described(self) -> str:
        """For messages: kind, name and plugin, and what it is inside of."""
        within = f", in {self.within}" if self.within else ""
        return f"{self.kind} {self.name!r}{f' of {self.plugin}' if self.plugin else ''}{within}"

    @property
    def inner(self) -> tuple[tuple[str, Named], ...]:
        """The components that it holds itself, with the names of its parameters (``of``; of several, ``of.NAME``)."""
        return tuple(inner(self.component))

    @property
    def needs(self) -> frozenset[str]:
        """What it must be given, and what those that it holds must be."""
        return frozenset(self.component.needs).union(*(named.needs for _, named in self.inner))

    def __str__(self) -> str:
        """The one-word spelling, with the parameters that differ from their defaults."""
        cls = type(self.component)
        default = {field.alias: field.default for field in attrs.fields(cls)} if attrs.has(cls) else {}
        params = self.params | {alias: str(named) for alias, named in self.inner if alias in self.params}
        given = {key: value for key, value in params.items() if key not in default or value != default[key]}
        return str(Spec(self.name, params=given))


def inner_fields(cls: type) -> dict[str, attrs.Attribute[Any]]:
    """The fields of a component class that hold components, by the names of their parameters."""
    fields: Any = attrs.fields(cls) if attrs.has(cls) else ()
    return {field.alias: field for field in fields if "kind" in field.metadata and field.init}


def inner(component: object) -> Iterator[tuple[str, Named]]:
    """What :attr:`Named.inner` says of a component."""
    cls: type = type(component)
    for alias, field in inner_fields(cls).items():
        held = getattr(component, field.name)
        if isinstance(held, Named):
            yield alias, held
        for named in held if isinstance(held, tuple) else ():
            yield f"{alias}.{named.name}", named
