"""The points of a sweep are the experiments that it runs, each with a name of its own; they follow from its axes.

An axis is a dotted key with its values, as in ``filter.select: [nofilter, top_p(0.9)]``; points are all combinations,
the last axis varying fastest. Values may be one text (``nofilter, top_p(0.9)``), integers a range
(``0..2``). Keys that move together share an axis: ``kl.coef,entropy_coeff: [[0, 0.1], [0.1, 0]]``, or any name with
mappings, ``setting: [{kl.coef: 0, entropy_coeff: 0.1}, ...]``. Settings that have names of their own are *cases*.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import attrs

from ...core.compose.component import component_mapping
from ...core.compose.config import Source, compose
from ...core.compose.experiment import Experiment, keys
from ...core.compose.identity import config_hash
from ...core.compose.plain_data import plain
from ...core.compose.problems import ABSENT, CompositionError, Invalid, Problem, unique
from ...core.compose.spec import format_value
from ...core.compose.spellings import full
from ...core.errors import RequestError, nearest
from ...core.registry import Registry
from ...core.registry import registry as shared_registry
from ...core.runs.labels import CASE, LABEL_LENGTH, safe, text_of
from .axes import MOST, Choice, axis_values, choices, parse_axis
from .decided import decided, lost

__all__ = ["LABEL_LENGTH", "Case", "Point", "axis_values", "expand", "parse_axis"]

Overrides = Mapping[str, Any]


@attrs.frozen
class Case:
    """A case is a setting of a sweep that has a name of its own; all axes are crossed with every case."""

    label: str
    overrides: Overrides
    values: Mapping[str, str] = attrs.field(factory=dict)
    """Place among the cases, for tables and plots: name -> value as text; none is ``case``: its label."""


@attrs.frozen
class Point:
    """A point is one experiment of a sweep."""

    overrides: dict[str, Any]
    """Values by dotted key, of the case and of all axes."""
    label: str
    """Name that is short, unique in the sweep, and safe for a directory."""
    values: dict[str, str]
    """Place in the sweep: axis -> value as text, those of the case first."""
    crossed: tuple[str, ...]
    """Axes that are crossed with the cases; without cases, all."""
    hash: str
    """:func:`config_hash` of the experiment."""
    experiment: Experiment = attrs.field(eq=False, repr=False)


def expand(
    source: Source,
    axes: Mapping[str, Any],
    exclude: Iterable[Overrides] = (),
    registry: Registry | None = None,
    cases: Sequence[Case] = (),
) -> list[Point]:
    """Return every point of a sweep over the experiment ``source``, composed and checked.

    Args:
        source: what every point starts from.
        axes: axis -> values; see the module.
        exclude: drops the points that agree with all keys of one of its mappings.
        registry: where names come from; by default the registry of this process.
        cases: settings to cross with the axes. A point is then called after its case; a value of an axis that the
            experiment has anyway adds nothing to the name. Without cases that holds for the seed alone, so that a sweep
            which is repeated with further seeds finds the runs that it has.

    Raises:
        RequestError: an axis, case or exclusion cannot be read or does nothing, one takes back what another sets, two
            points are the same experiment, or there are too many.
        CompositionError: with every problem of every point.
    """
    registry = registry or shared_registry()
    base = compose(source, registry=registry)
    kept = _settings(registry, axes, exclude, cases)
    labels = _case_labels(base, kept) if cases else _labels(base, kept)
    all_problems: list[Problem] = []
    points = []
    for setting, label in zip(kept, labels, strict=True):
        try:
            experiment = compose(base, setting.overrides, registry)
        except CompositionError as error:
            all_problems += error.problems
        else:
            digest = config_hash(experiment)
            points.append(Point(setting.overrides, label, setting.values, tuple(axes), digest, experiment))
    if all_problems:
        raise CompositionError(unique(all_problems), str(source) if isinstance(source, str) else "")
    _refuse_twins(points)
    return points


@attrs.frozen
class _Setting:
    """A setting is a point before it is composed."""

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


def _settings(
    registry: Registry, axes: Mapping[str, Any], exclude: Iterable[Overrides], cases: Sequence[Case]
) -> list[_Setting]:
    """Return all combinations of cases and values that are not excluded."""
    read = [choices(registry, name, values) for name, values in axes.items()]
    named: Sequence[Case | None] = cases or [None]
    if (number := len(named) * math.prod(map(len, read))) > MOST:
        raise RequestError(f"the sweep has {number} points", fix=f"vary less: at most {MOST} can be composed")
    _refuse_conflicts(registry, cases, read)
    crossed = [_Setting(case, parts) for case in named for parts in itertools.product(*read)]
    excluded = {number: _canonical_all(registry, item) for number, item in enumerate(exclude)}
    if excluded:
        varied_keys = {full(key) for setting in crossed for key in setting.overrides}
        places = [_canonical_all(registry, setting.overrides) for setting in crossed]
        hit = [{number for number, item in excluded.items() if _agrees(place, item)} for place in places]
        _refuse_idle(list(excluded.values()), varied_keys, set().union(*hit))
        crossed = [setting for setting, by in zip(crossed, hit, strict=True) if not by]
    if not crossed:
        raise RequestError("the sweep has no points", fix="give every axis a value, and exclude less")
    return crossed


def _refuse_conflicts(registry: Registry, cases: Sequence[Case], axes: Sequence[Sequence[Choice]]) -> None:
    """No axis may take back what a case or another axis sets, or a name would tell of what is not there."""
    before: list[tuple[str, frozenset[str]]] = [("a case", decided(registry, case.overrides)) for case in cases]
    for axis in axes:
        for what, keys_before in before:
            for choice in axis:
                if twice := lost(keys_before, choice.decided):
                    raise RequestError(
                        f"{f'{what} and an axis' if what == 'a case' else 'two axes'} change {', '.join(twice)}",
                        f"axis {choice.axis}",
                        "let every key stand in one axis or in the cases, and a component before its parameters",
                    )
        before += [("an axis", choice.decided) for choice in axis]


# --- exclusions -----------------------------------------------------------------------------------------------------


def _refuse_idle(excluded: Sequence[Overrides], varied_keys: set[str], hit: set[int]) -> None:
    """An exclusion that excludes nothing is a slip of the pen."""
    for number, item in enumerate(excluded):
        for key in item:
            if key not in varied_keys:
                raise RequestError(f"the exclusion names {key!r}, which no axis changes", fix=nearest(key, varied_keys))
        if number not in hit:
            raise RequestError(
                f"the exclusion {format_value(plain(item))} matches no point",
                fix="write its values as the axes have them, or drop it",
            )


def _agrees(place: Overrides, exclusion: Overrides) -> bool:
    return all(key in place and _same(place[key], value) for key, value in exclusion.items())


def _canonical_all(registry: Registry, overrides: Overrides) -> dict[str, Any]:
    return {full(key): _canonical(registry, full(key), value) for key, value in overrides.items()}


def _canonical(registry: Registry, key: str, value: Any) -> Any:
    """Return a component as a mapping with its parameters by name; anything else as it is."""
    metadata = field.metadata if (field := keys().get(key)) is not None else {}
    if value is None or "kind" not in metadata or metadata.get("many"):
        return value
    try:
        return component_mapping(registry, metadata["kind"], value)
    except Invalid:  # composition says what is wrong with it
        return value


def _same(one: Any, other: Any) -> bool:
    """Say whether values are equal, however a component is spelled; 0 and 0.0 are equal, true and 1 are not."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return one == other or text_of(one) == text_of(other)


def _refuse_twins(points: list[Point]) -> None:
    first: dict[str, Point] = {}
    for point in points:
        twin = first.setdefault(point.hash, point)
        if twin is not point:
            raise RequestError(
                f"two points are the same experiment: {twin.label} and {point.label}", fix="drop one of the values"
            )


# --- labels ---------------------------------------------------------------------------------------------------------


def _labels(base: Experiment, settings: Sequence[_Setting]) -> list[str]:
    """Return the values of all axes; the base's own seed is left out where another axis tells of the point."""
    own_seed = {"seed": base.seed}
    labels = []
    for setting in settings:
        words = [choice.label for choice in setting.choices if choice.overrides != own_seed]
        labels.append("__".join(words or [choice.label for choice in setting.choices]) or "base")
    counts = Counter(map(str.lower, labels))  # some file systems take A and a for one
    return [
        label
        if len(label) <= LABEL_LENGTH and counts[label.lower()] == 1
        else f"{label[: LABEL_LENGTH - 9]}-{sha256(repr(sorted(setting.overrides.items())).encode()).hexdigest()[:8]}"
        for label, setting in zip(labels, settings, strict=True)
    ]


def _case_labels(base: Experiment, settings: Sequence[_Setting]) -> list[str]:
    """Return the case's own name, then what the axes change about the base."""
    data = plain(base)
    labels = []
    for setting in settings:
        assert setting.case is not None
        changes = [choice.label for choice in setting.choices if not _stands_in(data, choice.overrides)]
        labels.append("__".join([safe(setting.case.label), *changes]))
        if len(labels[-1]) > LABEL_LENGTH:
            raise RequestError(
                f"a point would be called {labels[-1][:40]}..., {len(labels[-1])} characters",
                fix=f"give its case a label of fewer than {LABEL_LENGTH}",
            )
    counts = Counter(map(str.lower, labels))
    if twice := [label for label in labels if counts[label.lower()] > 1]:
        raise RequestError(
            f"two points of the sweep are called {twice[0]!r}", fix="drop one of the values, or write it differently"
        )
    return labels


def _stands_in(data: Mapping[str, Any], overrides: Overrides) -> bool:
    return all(_same(_at(data, full(key)), value) for key, value in overrides.items())


def _at(data: Any, key: str) -> Any:
    """Return what stands under a dotted key, or ``ABSENT``."""
    for part in key.split("."):
        data = data.get(part, ABSENT) if isinstance(data, Mapping) else ABSENT
    return data
