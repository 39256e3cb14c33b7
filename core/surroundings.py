"""Others' code must leave as it found it what the whole process computes with or writes by.

That is the working directory and torch's modes: the default dtype and device, whether gradients are recorded, and
autocast. Whoever changes one of them changes what everybody else computes from then on, or where it is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Surrounding:
    """A surrounding is one thing that belongs to the whole process; ``read`` gives it as text."""

    name: str
    read: Callable[[], str]
    restore: Callable[[str], Any]


@contextmanager
def restored() -> Iterator[list[str]]:
    """Put everything back that is changed meanwhile; the list then says what that was, and is empty if all is well."""
    before, changes = [each.read() for each in _WATCHED], list[str]()
    try:
        yield changes
    finally:
        for each, was in zip(_WATCHED, before, strict=True):
            if (now := each.read()) != was:
                each.restore(was)
                changes.append(f"{each.name} (it was {was}, and is {now})")


def _directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "gone"


def _enter(directory: str) -> None:
    if directory != "gone":
        os.chdir(directory)


def _torch() -> Any:
    """The library, where somebody has imported it: until then its modes are the usual ones."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and hasattr(torch, "compile") else None


def _dtype() -> str:
    return str(torch.get_default_dtype()) if (torch := _torch()) else "torch.float32"


def _device() -> str:
    return str(torch.empty(0).device) if (torch := _torch()) else "cpu"  # asking for it takes ten times as long


def _set_device(was: str) -> None:
    _torch().set_default_device(None if was == "cpu" else was)


def _grad() -> str:
    return "on" if (torch := _torch()) is None or torch.is_grad_enabled() else "off"


def _autocast() -> str:
    torch = _torch()
    kinds = [kind for kind in ("cpu", "cuda") if torch is not None and torch.is_autocast_enabled(kind)]
    return " and ".join(kinds) or "off"


def _set_autocast(value: str) -> None:
    for kind in ("cpu", "cuda"):
        _torch().set_autocast_enabled(kind, kind in value)


_WATCHED = (
    Surrounding("the working directory", _directory, _enter),
    Surrounding("torch's default dtype", _dtype, lambda was: _torch().set_default_dtype(getattr(_torch(), was[6:]))),
    Surrounding("torch's default device", _device, _set_device),
    Surrounding("torch's recording of gradients", _grad, lambda was: _torch().set_grad_enabled(was == "on")),
    Surrounding("torch's autocast", _autocast, _set_autocast),
)
