"""An override decides keys of an experiment, however it is spelled, and a later override may take them back.

``kl.coef: 1`` and ``kl: {coef: 1}`` decide the same key. A component decides its own key, with which all that belonged
to the old one goes, and the parameters that it is given; a mapping without a name decides those parameters alone.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from ...core.compose.component import component_mapping
from ...core.compose.experiment import Experiment, section_of
from ...core.compose.overrides import nest
from ...core.compose.problems import Invalid
from ...core.compose.spellings import written_out
from ...core.registry import Registry


def decided(registry: Registry, overrides: Mapping[str, Any]) -> frozenset[str]:
    """Return the dotted keys that ``overrides`` (dotted key -> plain data) decide, also those that nobody knows."""
    layers = map(written_out, nest(overrides.items()))
    return frozenset(key for layer in layers for key in _of_section(registry, Experiment, layer, ""))


def lost(earlier: Iterable[str], later: Iterable[str]) -> list[str]:
    """Return the keys decided earlier that are decided anew, or go with what is replaced above them."""
    replaced = set(later)
    return sorted(key for key in earlier if any(above in replaced for above in _upwards(key)))


def touched(keys: Iterable[str], key: str) -> bool:
    """Say whether one of ``keys`` is ``key`` itself, something above it, or something below it."""
    return any(one == key or one.startswith(f"{key}.") or key.startswith(f"{one}.") for one in keys)


def _upwards(key: str) -> Iterator[str]:
    """Return the key, and every key above it."""
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(len(parts), 0, -1))


def _of_section(registry: Registry, cls: type, data: Mapping[str, Any], prefix: str) -> Iterator[str]:
    fields, hints = {field.alias: field for field in attrs.fields(cls)}, typing.get_type_hints(cls)
    for name, value in data.items():
        key = f"{prefix}{name}"
        if name not in fields:
            yield key
        elif kind := fields[name].metadata.get("kind"):
            yield from _of_component(registry, kind, fields[name].metadata.get("many", False), key, value)
        elif not isinstance(value, Mapping):
            yield key
        elif section := section_of(hints[fields[name].name]):
            yield from _of_section(registry, section, value, f"{key}.")
        else:
            yield from (f"{key}.{below}" for below in value)


def _of_component(registry: Registry, kind: str, many: bool, key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and (many or "name" not in value):
        for name, below in value.items():
            parameters = below if many and isinstance(below, Mapping) else [""]
            yield from (f"{key}.{name}.{parameter}".rstrip(".") for parameter in parameters)
        return
    yield key
    if value is None or many:
        return
    try:
        parameters = component_mapping(registry, kind, value)
    except Invalid:  # composition says what is wrong with it
        return
    yield from (f"{key}.{parameter}" for parameter in parameters if parameter != "name")
