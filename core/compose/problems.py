"""What is wrong with an experiment: every problem has a key, a reason and a way out, and all are reported at once."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

from ..errors import RequestError, nearest
from .spec import format_value

LONGEST = 80
"""Characters of a key or a value in a message, at most."""
MOST = 50
"""Problems that one message names, at most."""
UNKNOWN_KEY = "unknown key"
ABSENT: Any = ...
"""The value of a problem that is not about a value."""


@attrs.frozen
class Problem:
    """One thing that is wrong with an experiment."""

    reason: str
    """What is wrong, e.g. ``must be a number``."""
    key: str = ""
    """The dotted path of the key, e.g. ``filter.select.value``; empty: the experiment as a whole."""
    value: Any = ABSENT
    """What stands there, where something does."""
    fix: str = ""
    """The nearest valid spelling, or what to do."""

    def under(self, *parents: str) -> Problem:
        """The same problem, seen from further up."""
        return attrs.evolve(self, key=".".join(part for part in (*parents, self.key) if part))

    def __str__(self) -> str:
        place = self.key if len(self.key) <= LONGEST else f"{self.key[: LONGEST - 3]}..."
        if self.value is not ABSENT:
            place = f"{place} = {show(self.value)}" if place else show(self.value)
        text = f"{place}: {self.reason}" if place else self.reason
        return f"{text}; {self.fix}" if self.fix else text


class Invalid(Exception):  # noqa: N818 - carries findings up to composition, which reports them
    """The exception is raised while a value is structured, and caught where its key is known."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


class CompositionError(RequestError):
    """An experiment cannot be composed; ``problems`` has every reason."""

    subject: ClassVar[str] = "the experiment"

    def __init__(self, problems: Sequence[Problem], source: str = "") -> None:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = [
            f"{count} with {self.subject}{f' {source}' if source else ''}:",
            *(f"  {item}" for item in problems[:MOST]),
        ]
        lines += [f"  and {len(problems) - MOST} more"] if len(problems) > MOST else []
        super().__init__("\n".join(lines))
        self.problems, self.source = tuple(problems), source
        self.args = (self.problems, source)  # what pickle calls the class with


def failure(component: str, what: str, error: Exception) -> Problem:
    """A mistake in a component's own code, with the place of it."""
    frames = traceback.extract_tb(error.__traceback__)
    reason = f"{component} failed in {what}: {type(error).__name__}: {error}"
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return Problem(f"{reason}{where}", fix="mend its plugin, or name another component")


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Leave repetitions out, and keep the order."""
    return list({str(problem): problem for problem in problems}.values())


def show(value: object) -> str:
    """A value as it stands in a file, on one line, text always in quotes; a long one is cut, in bounded work."""
    value = _start(value, LONGEST)
    text = repr(value) if isinstance(value, str) else format_value(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _start(value: object, left: int) -> object:
    """Cut off as much of a value as can be shown in ``left`` characters, and one more so that it is seen to go on."""
    if left <= 0:
        return "..."
    if isinstance(value, str):
        return value[: left + 1]
    if isinstance(value, Mapping):
        items = itertools.islice(value.items(), left // 4 + 1)
        return {_start(key, left): _start(item, left // 2) for key, item in items}
    if isinstance(value, list | tuple):
        return [_start(item, left // 2) for item in value[: left // 2 + 1]]
    return value


# --- what cattrs has collected ---------------------------------------------------------------------------------------


def gathered(
    group: BaseValidationError, value: Mapping[str, Any] | Sequence[Any], known: Sequence[str] = ()
) -> Invalid:
    """The problems of a class (with the keys ``known``), a list or a mapping that was read from ``value``.

    Raises what is no matter of the data, such as a library that is not installed.
    """
    problems: list[Problem] = []
    for error in group.exceptions:
        key = _noted_key(error)
        if isinstance(error, Invalid):
            problems += [problem.under(key) for problem in error.problems]
        elif isinstance(error, ForbiddenExtraKeysError) and isinstance(value, Mapping):
            unknown = [name for name in value if name in error.extra_fields]
            problems += [Problem(UNKNOWN_KEY, name, value[name], nearest(name, known)) for name in unknown]
        elif isinstance(error, KeyError) and key not in value:
            problems.append(Problem("is missing, and has no default", key))
        else:
            raise error
    return Invalid(*problems)


def _noted_key(error: Exception) -> str:
    """The key or the number that cattrs has noted on an exception, taken off it; empty without one."""
    notes = getattr(error, "__notes__", [])
    for note in notes:
        if isinstance(note, AttributeValidationNote | IterableValidationNote):
            notes.remove(note)
            return note.name if isinstance(note, AttributeValidationNote) else str(note.index)
    return ""
