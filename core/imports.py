"""What others wrote is imported so that whatever a module does meanwhile stays with that module.

It may raise anything, print, take long, or change what the whole process computes with; the caller gets an error that
names a file and a line, what was printed goes to stderr, so that ``--json`` stays JSON, and the seconds are counted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from .surroundings import restored


@attrs.define
class Imported:
    """What came of one import."""

    result: Any = None
    error: BaseException | None = None
    seconds: float = 0.0


def import_alone(load: Callable[[], Any]) -> Imported:
    """Call ``load`` and keep what it returned, or what it raised: a ``SystemExit`` and a ``KeyboardInterrupt`` too.

    Raises:
        KeyboardInterrupt: somebody pressed Ctrl-C meanwhile (a module that raises it by itself is an error of its own).
    """
    imported, started = Imported(), time.perf_counter()
    with _interrupts() as pressed, _stdout_to_stderr(), restored() as changes:
        try:
            imported.result = load()
        except BaseException as error:
            if pressed:
                raise
            imported.error = error
    if changes and imported.error is None:
        imported.error = ImportError(f"it changed {', '.join(changes)} for the whole process, and must not")
    imported.seconds = time.perf_counter() - started
    return imported


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note each Ctrl-C that comes meanwhile; each still raises KeyboardInterrupt where Python does that."""
    pressed: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send what Python prints to stderr, and what libraries and processes write to the file descriptor itself."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of them is closed
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def where_raised(error: BaseException) -> str:
    """Give ``file:line`` of a plugin's own last line that an exception of its import came through; empty if none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    theirs = [frame for frame in frames if Path(frame.filename).parent != Path(__file__).parent]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
