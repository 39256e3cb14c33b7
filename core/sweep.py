"""Axes -> points: which experiments a sweep runs, and what each is called.

An axis is a dotted key with its values, as in ``filter.select: [nofilter, top_p(0.9)]``; points are all combinations,
the last axis varying fastest. Values may be one text (``nofilter, top_p(0.9, type=smallest)``), integers a range
(``0..2``). Keys that move together share an axis: ``kl.coef,entropy_coeff: [[0, 0.1], [0.1, 0]]``, or any name with
mappings, ``setting: [{kl.coef: 0, entropy_coeff: 0.1}, ...]``. Settings that have names of their own are *cases*.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import attrs

from .config import Source
from .converter import plain
from .errors import RequestError, nearest
from .experiment import Experiment, keys
from .problems import ABSENT, CompositionError, Problem, show, unique
from .spec import SpecError, format_value, parse_value, read_spec, split_list
from .variations import Variations

Overrides = Mapping[str, Any]

LABEL_LENGTH = 120
"""Characters of a label, which is the name of a directory."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


@attrs.frozen
class Case:
    """A setting of a sweep that has a name of its own; all axes are crossed with every case."""

    label: str
    overrides: Overrides
    values: Mapping[str, str] = attrs.field(factory=dict)
    """Its place among the cases, for tables and plots: name -> value as text; none is ``case``: its label."""


@attrs.frozen
class Point:
    """One experiment of a sweep."""

    overrides: dict[str, Any]
    """Dotted key -> value, of the case and of all axes."""
    label: str
    """Short, unique in the sweep, and safe as the name of a directory."""
    values: dict[str, str]
    """Its place in the sweep: axis -> value as text, those of the case first."""
    hash: str
    """:func:`config_hash` of the experiment."""
    experiment: Experiment = attrs.field(eq=False, repr=False)


def expand(
    source: Source,
    axes: Mapping[str, Any],
    exclude: Iterable[Overrides] = (),
    registry: Any = None,
    cases: Sequence[Case] = (),
) -> list[Point]:
    """Every point of a sweep over the experiment ``source``, composed and checked.

    Args:
        source: what every point starts from.
        axes: axis -> values; see the module.
        exclude: drops the points that agree with all keys of one of its mappings.
        registry: where names come from; by default the registry of this process.
        cases: settings to cross with the axes. A point is then called after its case; a value of an axis that the
            experiment has anyway adds nothing to the name.

    Raises:
        RequestError: an axis, case or exclusion cannot be read, or two points are the same experiment.
        CompositionError: with every problem of every point.
    """
    variations = Variations(source, registry)
    choices = [_choices(name, values) for name, values in axes.items()]
    named: Sequence[Case | None] = cases or [None]
    crossed = [_Setting.union(case, parts) for case in named for parts in itertools.product(*choices)]
    known = {key for setting in crossed for key in setting.overrides}
    excluded = [_exclusion(item, known) for item in exclude]
    kept = [setting for setting in crossed if not any(_agrees(setting.overrides, out) for out in excluded)]
    if not kept:
        raise RequestError("the sweep has no points", fix="give every axis a value, and exclude less")
    labels = _case_labels(kept, variations.base) if cases else _labels(kept)
    found: list[Problem] = []
    points = []
    for setting, label in zip(kept, labels, strict=True):
        try:
            experiment, digest = variations.compose(setting.overrides)
        except CompositionError as error:
            found += error.problems
        else:
            points.append(Point(setting.overrides, label, setting.values, digest, experiment))
    if found:
        raise CompositionError(unique(found), str(source) if isinstance(source, str) else "")
    _refuse_twins(points)
    return points


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """``NAME=VALUES`` as typed on a command line -> the name and its values. Raises SpecError."""
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"the axis {text!r} has no values", fix="write NAME=VALUE,VALUE,... or NAME=FIRST..LAST")
    return name.strip(), axis_values(name.strip(), values)


def axis_values(name: str, values: Any) -> list[Any]:
    """The values of an axis, from a list or from one text. Raises SpecError."""
    if isinstance(values, str):
        items: list[Any] = [item if _RANGE.fullmatch(item) else parse_value(item) for item in split_list(values)]
    elif isinstance(values, Sequence):
        items = list(values)
    else:
        items = [values]
    expanded = list(itertools.chain.from_iterable(_range(item) for item in items))
    if not expanded:
        raise SpecError(f"the axis {name} has no values")
    return expanded


def _range(item: Any) -> list[Any]:
    match = _RANGE.fullmatch(item.strip()) if isinstance(item, str) else None
    return list(range(int(match[1]), int(match[2]) + 1)) if match else [item]


@attrs.frozen
class _Choice:
    """One value of one axis."""

    axis: str
    overrides: dict[str, Any]
    text: str
    label: str


def _choices(name: str, values: Any) -> list[_Choice]:
    """What each value of an axis stands for."""
    items = axis_values(name, values)
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1:
        for item in items:
            if not isinstance(item, list | tuple) or len(item) != len(names):
                raise RequestError(f"the axis {name} takes lists of {len(names)} values, not {show(plain(item))}")
        found = [dict(zip(names, item, strict=True)) for item in items]
    elif name.split(".")[0] not in keys() and all(isinstance(item, Mapping) for item in items):
        found = [dict(item) for item in items]
    else:
        found = [{name: item} for item in items]
    _refuse_unknown_keys(f"the axis {name}", found)
    single = all(list(overrides) == [name] for overrides in found)
    return [
        _Choice(name, overrides, _text(overrides[name]) if single else _joint_text(overrides), _label(overrides))
        for overrides in found
    ]


def _joint_text(overrides: Overrides) -> str:
    return ", ".join(f"{key}={_text(value)}" for key, value in overrides.items())


def _refuse_unknown_keys(what: str, found: Iterable[Overrides]) -> None:
    for key in {key for overrides in found for key in overrides}:
        if key.split(".")[0] not in keys():
            raise RequestError(f"{what} changes {key!r}, which is no key of an experiment", fix=nearest(key, keys()))


@attrs.frozen
class _Setting:
    """A point before it is composed."""

    case: Case | None
    choices: tuple[_Choice, ...]
    overrides: dict[str, Any]
    values: dict[str, str]

    @classmethod
    def union(cls, case: Case | None, choices: tuple[_Choice, ...]) -> _Setting:
        overrides = dict(case.overrides) if case else {}
        for choice in choices:
            if twice := overrides.keys() & choice.overrides.keys():
                first = "a case and an axis" if case and twice & case.overrides.keys() else "two axes"
                raise RequestError(
                    f"{first} change {', '.join(sorted(twice))}", fix="let every key stand in one axis or in the cases"
                )
            overrides |= choice.overrides
        own = (case.values or {"case": case.label}) if case else {}
        values = {**own, **{choice.axis: choice.text for choice in choices}}
        return cls(case, choices, overrides, values)


# --- exclusions -----------------------------------------------------------------------------------------------------


def _exclusion(item: Overrides, known: set[str]) -> Overrides:
    for key in item:
        if key not in known:
            raise RequestError(f"the exclusion names {key!r}, which no axis changes", fix=nearest(key, known))
    return item


def _agrees(overrides: Overrides, exclusion: Overrides) -> bool:
    return all(key in overrides and _same(overrides[key], value) for key, value in exclusion.items())


def _same(one: Any, other: Any) -> bool:
    """Equal values, however a component is spelled; 0 and 0.0 are equal, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or _text(one) == _text(other)


def _refuse_twins(points: list[Point]) -> None:
    first: dict[str, Point] = {}
    for point in points:
        twin = first.setdefault(point.hash, point)
        if twin is not point:
            raise RequestError(
                f"two points are the same experiment: {twin.label} and {point.label}", fix="drop one of the values"
            )


# --- labels ---------------------------------------------------------------------------------------------------------


def _labels(settings: Sequence[_Setting]) -> list[str]:
    labels = ["__".join(choice.label for choice in setting.choices) or "base" for setting in settings]
    counts = Counter(labels)
    return [
        label
        if len(label) <= LABEL_LENGTH and counts[label] == 1
        else f"{label[: LABEL_LENGTH - 9]}-{sha256(repr(sorted(setting.overrides.items())).encode()).hexdigest()[:8]}"
        for label, setting in zip(labels, settings, strict=True)
    ]


def _case_labels(settings: Sequence[_Setting], base: Experiment) -> list[str]:
    """The case's own name, then what the axes change about the base."""
    there = plain(base)
    labels = []
    for setting in settings:
        assert setting.case is not None
        changes = [choice.label for choice in setting.choices if not _stands_there(there, choice.overrides)]
        labels.append("__".join([_safe(setting.case.label), *changes]))
        if len(labels[-1]) > LABEL_LENGTH:
            raise RequestError(
                f"a point would be called {labels[-1][:40]}..., {len(labels[-1])} characters",
                fix=f"give its case a label of fewer than {LABEL_LENGTH}",
            )
    if twice := [label for label, count in Counter(labels).items() if count > 1]:
        raise RequestError(
            f"two points of the sweep are called {twice[0]!r}", fix="drop one of the values, or write it differently"
        )
    return labels


def _stands_there(data: Mapping[str, Any], overrides: Overrides) -> bool:
    return all(_same(_at(data, key), value) for key, value in overrides.items())


def _at(data: Any, key: str) -> Any:
    """What stands under a dotted key, or ``ABSENT``."""
    for part in key.split("."):
        data = data.get(part, ABSENT) if isinstance(data, Mapping) else ABSENT
    return data


def _label(overrides: Overrides) -> str:
    """``top_p_0.9__kl.coef_0.01``: a component by its own name, anything else after its key."""
    parts = []
    for key, value in overrides.items():
        field = keys().get(key)
        named = field is not None and "kind" in field.metadata and value is not None
        parts.append(_safe(_text(value) if named else f"{key}={_text(value)}"))
    return "__".join(parts)


def _text(value: Any) -> str:
    """One spelling per value; of a component the one-word spelling."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(read_spec(value))
    if isinstance(value, str):
        try:
            return str(read_spec(value))
        except SpecError:
            return value
    return format_value(plain(value))


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_.") or "_"
