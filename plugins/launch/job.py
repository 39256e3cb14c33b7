"""A launcher is given jobs, each of them one process to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs


def _words(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(words)


@attrs.frozen
class Job:
    """A job is one process, given by its words and never by a shell string."""

    name: str
    """Name that a person calls it by."""
    argv: tuple[str, ...] = attrs.field(converter=_words)
    """The program and its arguments."""
    log: Path
    """The file that its output is appended to."""
    env: Mapping[str, str] = attrs.field(factory=dict)
    """Variables added to the launcher's own environment; they win over what the launcher sets."""
    preload: tuple[str, ...] = attrs.field(default=(), converter=_words)
    """Modules that jobs may share: a launcher may import them once and fork, where ``argv`` is ``python -m MODULE``."""
