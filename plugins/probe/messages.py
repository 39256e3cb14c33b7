"""The logger of everything that the probe says while it runs, and the way to hear it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

messages = logging.getLogger(__package__)


@contextmanager
def heard(place: Path | None, form: str, level: str | int | None = None) -> Iterator[None]:
    """Messages go to a file as well, or without one to standard error, in a form of :mod:`logging`.

    Args:
        level: from which on; ``None``: what is said already.
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
    """Messages from a level on are said, whoever hears them; ``None`` changes nothing."""
    before = messages.level
    messages.setLevel(before if level is None else level)
    try:
        yield
    finally:
        messages.setLevel(before)
