"""A variation of the base is a case with one value of every axis: a point of a sweep before it is composed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...core.runs.labels import CASE, text_of
from .axes import Choice

Overrides = Mapping[str, Any]


@attrs.frozen
class Case:
    """A case is a setting of a sweep that has a name of its own; all axes are crossed with every case."""

    label: str
    overrides: Overrides
    values: Mapping[str, str] = attrs.field(factory=dict)
    """Place among the cases, for tables and plots: name -> value as text; none is ``case``: its label."""


@attrs.frozen
class Variation:
    """A variation is a point before it is composed."""

    case: Case | None
    choices: tuple[Choice, ...]

    @property
    def overrides(self) -> dict[str, Any]:
        overrides = dict(self.case.overrides) if self.case else {}
        for choice in self.choices:
            overrides |= choice.overrides
        return overrides

    @property
    def values(self) -> dict[str, str]:
        case = (self.case.values or {CASE: self.case.label}) if self.case else {}
        return {**case, **{choice.axis: choice.text for choice in self.choices}}


def same_value(one: Any, other: Any) -> bool:
    """Say whether values are equal, however a component is spelled; 0 and 0.0 are equal, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or text_of(one) == text_of(other)
