"""What a conformance check finds, and how the checks of one component collect it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from ..core.compose.blame import confined, wrong
from ..core.compose.experiment import Named
from ..core.errors import MissingExtraError, RequestError, RunError, UncollapseError


@attrs.frozen
class Problem:
    """One way in which a component breaks the contract of its kind."""

    what: str
    """What is wrong, with kind, name and plugin of the component."""
    where: str = ""
    """The file and line, or the class."""
    fix: str = ""
    """What to do."""

    def __str__(self) -> str:
        return str(UncollapseError(self.what, self.where, self.fix))

    @classmethod
    def of(cls, error: UncollapseError) -> Problem:
        """The problem that an error of ours tells of."""
        return cls(error.what, error.where, error.fix)


MACHINES = frozenset({"rollout_engine", "token_head", "train_backend", "model_builder", "launcher"})
"""Kinds that say with a RequestError that this machine lacks what they need."""


class NotExercisedError(RequestError):
    """A component is sound as far as it can be seen, but cannot be tried here: it needs parameters, or a machine."""


@attrs.frozen
class Law:
    """One thing that components of a kind must do; ``holds`` raises RunError where one does not."""

    says: str
    """The law in words: a sentence about the component."""
    holds: Callable[[Named], Any]
    reaches_out: bool = False
    """Whether trying it may start processes or talk to other machines, which is not done unasked."""


def laws(*functions: Callable[[Named], Any], reaches_out: bool = False) -> tuple[Law, ...]:
    """Laws whose words are the first lines of the functions' docstrings."""
    return tuple(Law((each.__doc__ or "").strip().partition("\n")[0], each, reaches_out) for each in functions)


def broken(named: Named, each: Iterable[Law]) -> list[Problem]:
    """The problems of one component. Where the first law is broken the others, which build on it, are not tried.

    Raises:
        NotExercisedError: the component cannot be tried on this machine.
    """
    problems: list[Problem] = []
    for number, law in enumerate(each):
        try:
            with confined(named, f"the law {law.says!r}"):
                law.holds(named)
        except UncollapseError as error:
            unable = isinstance(error, NotExercisedError | MissingExtraError) or (
                isinstance(error, RequestError) and named.kind in MACHINES
            )
            if unable and not problems:
                raise NotExercisedError(error.what, error.where, error.fix) from error
            what = error.what if named.described in error.what else f"{named.described}: {error.what}"
            undeclared = "NoneType" in error.what  # what a component reads without having asked for it is None
            fix = f"name in needs what it reads: uncollapse show {named.kind}" if undeclared else error.fix
            problems.append(Problem(what, error.where, fix))
            if number == 0:
                break
    return list(dict.fromkeys(problems))


def require(named: Named, method: str, holds: bool, what: str, fix: str = "") -> None:
    """Raises RunError that blames the component where something does not hold."""
    if not holds:
        error = wrong(named, method, what)
        raise RunError(error.what, error.where, fix or error.fix)
