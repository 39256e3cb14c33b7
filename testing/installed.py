"""All installed plugins are checked at once, for ``uncollapse plugins --check``."""

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
    """Findings are what could not be checked; what is broken stands in the ``errors`` of its plugin."""

    for_want_of_an_extra: dict[str, list[str]] = attrs.field(factory=dict)
    """Names that were not imported because an extra is missing, by the command that installs it."""
    not_tried: dict[str, str] = attrs.field(factory=dict)
    """Reason why no law was tried, by name."""


def check_installed(names: Registry) -> Findings:
    """Import every component, compose every experiment and sweep, and try the laws on other people's components."""
    findings = Findings()
    broken = {id(entry) for entry, error in names.check() if not _note(findings, entry, error)}
    for kind in names.kinds():
        for entry in names.entries(kind):
            unsound = id(entry) in broken or f"{kind} {entry.name}" in _missing(findings)
            if not unsound and (kind in ("experiment", "sweep") or entry.distribution != PROJECT):
                _try(findings, entry)
    return findings


def _try(findings: Findings, entry: Entry) -> None:
    """Try the laws on a component, but not those that reach out of this process: the package's own tests try them."""
    try:
        problems = check(entry.kind, entry.name, reach_out=False)
    except (NotExercisedError, MissingExtraError) as error:
        _note(findings, entry, error)
        return
    entry.plugin.errors.extend(RunError(problem.what, problem.where, problem.fix) for problem in problems)
    if entry.kind not in ROOMS and entry.distribution != PROJECT:
        findings.not_tried[f"{entry.kind} {entry.name}"] = "only a run can tell"


def _note(findings: Findings, entry: Entry, error: UncollapseError) -> bool:
    """Note an error that says nothing against the component; return whether it is such an error."""
    name = f"{entry.kind} {entry.name}"
    if isinstance(error, MissingExtraError):
        findings.for_want_of_an_extra.setdefault(error.fix, []).append(name)
    elif isinstance(error, NotExercisedError):
        findings.not_tried[name] = error.what
    return isinstance(error, MissingExtraError | NotExercisedError)


def _missing(findings: Findings) -> set[str]:
    return {name for names in findings.for_want_of_an_extra.values() for name in names}
