"""Problems are what a conformance check finds; the laws of one component are tried here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from ..core.compose.blame import confined, wrong
from ..core.compose.named import Named
from ..core.errors import MissingExtraError, RequestError, RunError, UncollapseError


@attrs.frozen
class Problem:
    """A problem is one way in which a component breaks the contract of its kind."""

    what: str
    """Fault, with kind, name and plugin of the component."""
    where: str = ""
    """File and line, or class."""
    fix: str = ""
    """Advice on what to do."""

    def __str__(self) -> str:
        return str(UncollapseError(self.what, self.where, self.fix))

    @classmethod
    def of(cls, error: UncollapseError) -> Problem:
        """Make a problem of one of our errors."""
        return cls(error.what, error.where, error.fix)


MACHINES = frozenset({"rollout_engine", "token_head", "train_backend", "model_builder", "launcher"})
"""Kinds whose components raise RequestError if this machine lacks what they need."""


class NotExercisedError(RequestError):
    """The component may be sound, but cannot be tried here: it needs parameters, or another machine."""


@attrs.frozen
class Law:
    """A law is one thing that components of a kind must do."""

    says: str
    """Law in words: a sentence about the component."""
    holds: Callable[[Named], Any]
    """Function that tries the law on a component, and raises RunError if it is broken."""
    reaches_out: bool = False
    """Whether trying it may start processes or talk to other machines, which is only done if it is asked for."""


def laws(*functions: Callable[[Named], Any], reaches_out: bool = False) -> tuple[Law, ...]:
    """Make laws of functions; the words of each are the first line of its docstring."""
    return tuple(
        Law((function.__doc__ or "").strip().partition("\n")[0], function, reaches_out) for function in functions
    )


def broken(named: Named, laws_of_kind: Iterable[Law]) -> list[Problem]:
    """Try laws on one component and list the problems.

    If the first law is broken, the others are not tried, because they build on it.

    Raises:
        NotExercisedError: the component cannot be tried on this machine.
    """
    problems: list[Problem] = []
    for number, law in enumerate(laws_of_kind):
        try:
            with confined(named, f"the law {law.says!r}"):
                law.holds(named)
        except UncollapseError as error:
            if _is_unable(named, error) and not problems:
                raise NotExercisedError(error.what, error.where, error.fix) from error
            problems.append(_problem(named, error))
            if number == 0:
                break
    return list(dict.fromkeys(problems))


def _is_unable(named: Named, error: UncollapseError) -> bool:
    """Say whether an error means that this machine cannot try the component."""
    if isinstance(error, NotExercisedError | MissingExtraError):
        return True
    return isinstance(error, RequestError) and named.kind in MACHINES


def _problem(named: Named, error: UncollapseError) -> Problem:
    """Make a problem of an error, with the name of the component."""
    what = error.what if named.described in error.what else f"{named.described}: {error.what}"
    # a term that a component has not declared in needs is None, and reading it fails with this type
    undeclared = "NoneType" in error.what
    fix = f"name in needs what it reads: uncollapse show {named.kind}" if undeclared else error.fix
    return Problem(what, error.where, fix)


def require(named: Named, method: str, holds: bool, what: str, fix: str = "") -> None:
    """Raise RunError that blames the component if something does not hold."""
    if not holds:
        error = wrong(named, method, what)
        raise RunError(error.what, error.where, fix or error.fix)
