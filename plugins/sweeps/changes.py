"""Who runs a sweep may change it, but not so that its cases and axes take that back, or its names deny it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from ...core.compose.spellings import full
from ...core.errors import RequestError, in_python
from ...core.registry import registry
from .axes import axis_values, choices
from .definition import Definition
from .overridden_keys import decided, lost, touched

Changed = TypeVar("Changed", bound=Definition)
"""Type of a sweep, which stays of its class."""
Alternatives = list[tuple[str, list[frozenset[str]]]]
"""Ways in which the sweep lays something over its overrides, each with the keys that its cases or values decide."""


def changed(sweep: Changed, overrides: Mapping[str, Any], axes: Mapping[str, Any]) -> Changed:
    """Return the sweep with further ``overrides``, and with further or other ``axes``.

    Raises RequestError where that would have no effect, or change what names and files tell of.
    """
    varied = {axis: choices(registry(), axis, values) for axis, values in axes.items()}
    asked = decided(registry(), overrides).union(*(choice.decided for axis in varied.values() for choice in axis))
    for key, why in sweep.fixed.items():
        if changing := sorted(one for one in asked if touched([one], full(key))):
            raise RequestError(f"the sweep {sweep.title} fixes {key}, and {changing[0]} would change it", fix=why)
    of_cases = frozenset().union(*(decided(registry(), case.overrides) for case in sweep.cases))
    for axis, values in varied.items():
        if twice := [key for choice in values for key in lost(of_cases, choice.decided)]:
            raise _owned(sweep, twice[0], "case by case", axis)
    # beside cases, what the sweep sets says which value of an axis adds nothing to a name
    new_axes = [] if sweep.cases else [[choice.decided for choice in values] for values in varied.values()]
    kept = {
        key: value
        for key, value in sweep.overrides.items()
        if full(key) not in map(full, overrides) and not any(_taken(key, value, axis) for axis in new_axes)
    }
    exclude = [item for item in sweep.exclude if _may_match(item, axes)]
    all_axes = {
        axis: values for axis, values in sweep.axes.items() if axis in axes or full(axis) not in map(full, axes)
    }
    result = attrs.evolve(sweep, overrides={**kept, **overrides}, axes={**all_axes, **axes}, exclude=exclude)
    for key, value in overrides.items():
        keys = decided(registry(), {key: value})
        for how, alternatives in _alternatives(result):
            if taken := sorted({gone for one in alternatives for gone in lost(keys, one)}):
                raise _owned(result, taken[0], how, key)
    return result


def refuse_idle(sweep: Definition) -> None:
    """Raise RequestError if an override of the sweep is taken back at every point."""
    if not sweep.overrides:
        return
    laid_over = _alternatives(sweep)
    for key, value in sweep.overrides.items():
        for how, alternatives in laid_over[:1] if sweep.cases else laid_over:
            if _taken(key, value, alternatives):
                raise RequestError(f"{key} is set for all points, and again {how}", fix="drop one of them")


def _taken(key: str, value: Any, alternatives: Sequence[frozenset[str]]) -> bool:
    """Say whether every alternative takes back what the override decides, or a part of it."""
    keys = decided(registry(), {key: value})
    return bool(alternatives) and all(lost(keys, one) for one in alternatives)


def _alternatives(sweep: Definition) -> Alternatives:
    cases: Alternatives = [("case by case", [decided(registry(), case.overrides) for case in sweep.cases])]
    return cases + [
        (f"on the axis {axis}", [choice.decided for choice in choices(registry(), axis, values)])
        for axis, values in sweep.axes.items()
    ]


def _owned(sweep: Definition, key: str, how: str, asked: str) -> RequestError:
    """Return the error that ``key`` belongs to the cases or to an axis, and that ``asked`` would change it."""
    option = next((option for owned, option in sweep.options.items() if touched([key], full(owned))), "")
    if option:
        name = option.strip("-").replace("-", "_")
        fix = f"use {in_python(option, f'load_sweep(..., {name}=...)')}"
    elif how.startswith("on the axis"):
        axis = how.removeprefix("on the axis ")
        option, python = f"--axis '{axis}=...'", f"axes={{{axis!r}: [...]}}"
        fix = f"give the axis other values: {in_python(option, python)}"
    else:
        fix = "use another sweep, custom, or a file of your own"
    where = "" if key == full(asked) else f"what is asked for: {asked}"
    return RequestError(f"the sweep {sweep.title} sets {key} itself, {how}", where, fix)


def _may_match(exclusion: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    """Say whether an exclusion still excludes something once ``axes`` replace those that it was written for."""
    values = {full(axis): axis_values(axis, values) for axis, values in axes.items()}
    return not any(full(key) in values and value not in values[full(key)] for key, value in exclusion.items())
