"""Compose many experiments that differ in a few keys: each section is read once per setting of its own keys."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from .combinations import combination_problems
from .config import Source, compose, merge, validation_problems
from .converter import make_converter, plain, read_field
from .experiment import Experiment
from .identity import UNCOUNTED, digest
from .overrides import nest
from .problems import CompositionError, Invalid, Problem, unique

if TYPE_CHECKING:
    from ..registry import Registry

ALWAYS_WHOLE = "plugins"
"""Loading a plugin can change what any other key means."""


@attrs.frozen
class _Section:
    """What one top-level key of an experiment holds, under some overrides of its keys."""

    value: Any
    json: str
    problems: tuple[Problem, ...] = ()


class Variations:
    """Experiments over one base; the same ones, and the same problems, as :func:`~.config.compose` gives.

    Raises what composing ``source`` raises.
    """

    def __init__(self, source: Source, registry: Registry | None = None) -> None:
        if registry is None:
            from ..registry import registry as shared

            registry = shared()
        self.base = compose(source, registry=registry)
        self.registry, self._converter = registry, make_converter(registry)
        self._data = plain(self.base)
        self._json = {key: _json(value) for key, value in self._data.items() if key not in UNCOUNTED}
        self._fields = {field.name: field for field in attrs.fields(Experiment)}
        self._hints = typing.get_type_hints(Experiment)
        self._sections: dict[tuple[str, str], _Section] = {}
        self._validation: dict[tuple[str, str], list[Problem]] = {}

    def compose(self, overrides: Mapping[str, Any]) -> tuple[Experiment, str]:
        """The base under ``overrides`` (dotted key -> plain data), and its :func:`~.identity.config_hash`.

        Raises:
            CompositionError: with every problem of the experiment.
        """
        by_key: dict[str, dict[str, Any]] = {}
        for dotted, value in overrides.items():
            by_key.setdefault(dotted.partition(".")[0], {})[dotted] = value
        if ALWAYS_WHOLE in by_key:
            experiment = compose(self.base, overrides, self.registry)
            return experiment, digest({key: _json(plain(getattr(experiment, key))) for key in self._json})
        sections = {key: self._section(key, changes) for key, changes in by_key.items()}
        found = [problem for section in sections.values() for problem in section.problems]
        if not found:
            experiment = attrs.evolve(self.base, **{key: section.value for key, section in sections.items()})
            texts = self._json | {key: section.json for key, section in sections.items() if key in self._json}
            found = [*combination_problems(experiment), *self._of_validation(experiment, texts)]
        if found:
            raise CompositionError(unique(found))
        return experiment, digest(texts)

    def _section(self, key: str, changes: dict[str, Any]) -> _Section:
        known = key, json.dumps(changes, default=repr)
        if known not in self._sections:
            self._sections[known] = self._read(key, changes)
        return self._sections[known]

    def _read(self, key: str, changes: dict[str, Any]) -> _Section:
        try:
            data = self._data
            for nested in nest(changes.items()):
                data = merge(self.registry, data, nested)
            value = read_field(self._converter, self.registry, self._fields[key], self._hints[key], data[key])
            attrs.evolve(self.base, **{key: value})  # the validators of the field itself
        except (Invalid, KeyError, ValueError, TypeError):
            try:
                value = getattr(compose(self.base, changes, self.registry), key)
            except CompositionError as error:
                return _Section(None, "", tuple(error.problems))
        return _Section(value, _json(plain(value)))

    def _of_validation(self, experiment: Experiment, texts: Mapping[str, str]) -> list[Problem]:
        known = texts["environment"], texts["validation"]
        if known not in self._validation:
            self._validation[known] = validation_problems(experiment, self.registry)
        return self._validation[known]


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
