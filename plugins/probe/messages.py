"""The probe's messages go through one logger, and from there to a file or to standard error."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

messages = logging.getLogger(__package__)


@contextmanager
def heard(place: Path | None, form: str, level: str | int | None = None) -> Iterator[None]:
    """Write messages to a file as well, or without one to standard error, in a format of :mod:`logging`.

    Args:
        level: lowest level that is written; ``None`` leaves the level as it is.
    """
    if place is not None:
        handler: logging.Handler = logging.FileHandler(place, encoding="utf-8", errors="backslashreplace")
    else:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(form))
    with at_level(level):
        messages.addHandler(handler)
        try:
            yield
        finally:
            messages.removeHandler(handler)
            handler.close()


@contextmanager
def at_level(level: str | int | None) -> Iterator[None]:
    """Let messages from a level on pass, wherever they are written; ``None`` changes nothing."""
    before = messages.level
    messages.setLevel(before if level is None else level)
    try:
        yield
    finally:
        messages.setLevel(before)
