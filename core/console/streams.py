"""Standard output and error of work that must not end because nobody can be told about it."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from ..terminal import ERRORS

NAMES = ("stdin", "stdout", "stderr")


def say(text: str) -> None:
    """Write a line to standard error, if that can be written; also from within a signal handler."""
    with suppress(OSError, ValueError, RuntimeError):  # gone, closed, or interrupted in the middle of a write
        if sys.stderr is not None:
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def never_fail() -> None:
    """From here on standard output and error take what they are given, even if it goes nowhere.

    A pipe that nobody reads any more, a full disk, a terminal that is gone, a letter that its encoding lacks: none of
    them is an error of the work whose progress is shown. Streams that somebody has put in place of the process' own are
    left alone.
    """
    open_closed()
    for number, name in enumerate(NAMES):
        stream = getattr(sys, name)
        if number and (stream is None or _number(stream) == number):
            if stream is not None:
                with suppress(OSError, ValueError):
                    stream.flush()
            setattr(sys, name, _replaced(getattr(sys, f"__{name}__"), number))


def open_closed() -> None:
    """Open on nothing what was closed when the process began: nobody wants to hear, which is no error of a command.

    A file that is opened later would otherwise get the number, and with it what libraries print.
    """
    for number, name in enumerate(NAMES):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if number and getattr(sys, name) is None:
            setattr(sys, name, _replaced(None, number))


def _number(stream: TextIO) -> int | None:
    """The descriptor that a stream writes to, if it has one."""
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


def _replaced(stream: TextIO | None, number: int) -> TextIO:
    options: dict[str, Any] = {"encoding": getattr(stream, "encoding", None) or "utf-8", "errors": ERRORS}
    direct = number == 2 or getattr(stream, "write_through", False)
    options |= {"line_buffering": direct or getattr(stream, "line_buffering", False), "write_through": direct}
    return io.TextIOWrapper(io.BufferedWriter(_Unfailing(number)), **options)


class _Unfailing(io.RawIOBase):
    """A descriptor; what it does not take is dropped."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        try:
            return os.write(self._number, data)
        except OSError:
            return len(data)
