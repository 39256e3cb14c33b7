"""All installed plugins at once, for ``uncollapse plugins --check``."""

from __future__ import annotations

import attrs

from ..core.entry import Entry
from ..core.errors import MissingExtraError, RunError, UncollapseError
from ..core.hookspecs import PROJECT
from ..core.registry import Registry
from .check import ROOMS, check
from .problems import NotExercisedError


@attrs.define
class Findings:
    """What was found; what is broken stands in the ``errors`` of its plugin."""

    for_want_of_an_extra: dict[str, list[str]] = attrs.field(factory=dict)
    """How to install it -> names that were not imported."""
    not_tried: dict[str, str] = attrs.field(factory=dict)
    """Name -> why no law was tried on it."""


def check_installed(names: Registry) -> Findings:
    """Import every component, compose every experiment and sweep, and try the laws on other people's components."""
    found = Findings()
    broken = {id(entry) for entry, error in names.check() if not _note(found, entry, error)}
    for kind in names.kinds():
        for entry in names.entries(kind):
            unsound = id(entry) in broken or f"{kind} {entry.name}" in _missing(found)
            if not unsound and (kind in ("experiment", "sweep") or entry.distribution != PROJECT):
                _try(found, entry)
    return found


def _try(found: Findings, entry: Entry) -> None:
    """Laws that reach out of this process are left to the package's own tests."""
    try:
        problems = check(entry.kind, entry.name, reach_out=False)
    except (NotExercisedError, MissingExtraError) as error:
        _note(found, entry, error)
        return
    entry.plugin.errors.extend(RunError(problem.what, problem.where, problem.fix) for problem in problems)
    if entry.kind not in ROOMS and entry.distribution != PROJECT:
        found.not_tried[f"{entry.kind} {entry.name}"] = "only a run can tell"


def _note(found: Findings, entry: Entry, error: UncollapseError) -> bool:
    """Keep what says nothing against a component; whether it is that."""
    name = f"{entry.kind} {entry.name}"
    if isinstance(error, MissingExtraError):
        found.for_want_of_an_extra.setdefault(error.fix, []).append(name)
    elif isinstance(error, NotExercisedError):
        found.not_tried[name] = error.what
    return isinstance(error, MissingExtraError | NotExercisedError)


def _missing(found: Findings) -> set[str]:
    return {name for each in found.for_want_of_an_extra.values() for name in each}
