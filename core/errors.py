"""Every error that a person reads says what is wrong, where, and what to do.

Every error is picklable (runs cross process borders) and carries the exit code that the command line ends with:
1 the work failed, 2 the request was wrong.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UncollapseError(Exception):
    """The base of all our errors: ``what`` happened, ``where``, and how to ``fix`` it.

    Raise a subclass; catch this one at the edge (the command line, a scheduler) to print the message without a
    traceback.
    """

    exit_code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class RequestError(UncollapseError):
    """The request was wrong: nothing was started, nothing was changed."""

    exit_code = 2


class MissingExtraError(RequestError):
    """A library of an extra is not installed; the fix names the extra."""


class RunError(UncollapseError):
    """A run failed after it had started; what it had written is intact."""


class EpisodeLostError(RunError):
    """An episode cannot be played to its end for a reason outside of the program, such as a server that is down.

    An environment raises it in ``make`` or ``step``. The group of the episode is then dropped, and the run goes on, as
    long as no more than ``rollout.max_lost`` of the groups are lost.
    """


def in_python(option: str, python: str) -> str:
    """An option of the command line with what it is in Python, for a fix: ``--resume (resume=True in Python)``."""
    return f"{option} ({python} in Python)"


RESUME = in_python("--resume", "resume=True")
"""What continues a run from its last good checkpoint."""


def nearest(word: str, words: Iterable[str]) -> str:
    """``did you mean 'x'?`` for the spelling nearest to ``word``, or every valid spelling when none is near."""
    words = sorted(set(words))
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose one of: {', '.join(words)}" if words else "there is none"
