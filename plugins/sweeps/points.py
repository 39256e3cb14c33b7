"""The points of a sweep are the experiments that it runs, each with a name of its own; they follow from its axes.

An axis is a dotted key with its values, as in ``filter.select: [nofilter, top_p(0.9)]``; points are all combinations,
the last axis varying fastest. Values may be one text (``nofilter, top_p(0.9)``), integers a range
(``0..2``). Keys that move together share an axis: ``kl.coef,entropy_coeff: [[0, 0.1], [0.1, 0]]``, or any name with
mappings, ``setting: [{kl.coef: 0, entropy_coeff: 0.1}, ...]``. Settings that have names of their own are *cases*.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs

from ...core.compose.component import component_mapping
from ...core.compose.config import Source, compose
from ...core.compose.experiment import Experiment, keys
from ...core.compose.identity import config_hash
from ...core.compose.plain_data import plain
from ...core.compose.problems import CompositionError, Invalid, Problem, unique
from ...core.compose.spec import format_value
from ...core.compose.spellings import full
from ...core.errors import RequestError, nearest
from ...core.registry import Registry
from ...core.registry import registry as shared_registry
from ...core.runs.labels import LABEL_LENGTH
from .axes import MOST, Choice, axis_values, choices, parse_axis
from .directory_names import case_directories, directories
from .overridden_keys import decided, lost
from .variation import Case, Overrides, Variation, same_value

__all__ = ["LABEL_LENGTH", "Case", "Point", "axis_values", "expand", "parse_axis"]


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
    labels = case_directories(base, kept) if cases else directories(base, kept)
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


def _settings(
    registry: Registry, axes: Mapping[str, Any], exclude: Iterable[Overrides], cases: Sequence[Case]
) -> list[Variation]:
    """Return all combinations of cases and values that are not excluded."""
    read = [choices(registry, name, values) for name, values in axes.items()]
    named: Sequence[Case | None] = cases or [None]
    if (number := len(named) * math.prod(map(len, read))) > MOST:
        raise RequestError(f"the sweep has {number} points", fix=f"vary less: at most {MOST} can be composed")
    _refuse_conflicts(registry, cases, read)
    crossed = [Variation(case, parts) for case in named for parts in itertools.product(*read)]
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
    return all(key in place and same_value(place[key], value) for key, value in exclusion.items())


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


def _refuse_twins(points: list[Point]) -> None:
    first: dict[str, Point] = {}
    for point in points:
        twin = first.setdefault(point.hash, point)
        if twin is not point:
            raise RequestError(
                f"two points are the same experiment: {twin.label} and {point.label}", fix="drop one of the values"
            )
