"""Strict reading of single values: a type is what it says, and where another one spells it, the error says how."""

from __future__ import annotations

import math
import typing
from pathlib import Path
from typing import Any

from .errors import nearest
from .problems import Invalid, Problem
from .spec import format_value

TRUTH = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def wrong(value: Any, expected: str, fix: str = "") -> Invalid:
    """What is said of a value that is not what was expected."""
    return Invalid(Problem(f"must be {expected}", value=value, fix=fix))


def read_bool(value: Any, _: Any) -> bool:
    """``true`` or ``false``. Raises Invalid."""
    if isinstance(value, bool):
        return value
    truth = TRUTH.get(value.strip().lower()) if isinstance(value, str) else None
    raise wrong(value, "true or false", f"write {truth}" if truth else "")


def read_int(value: Any, _: Any) -> int:
    """A whole number; neither 3.0 nor text. Raises Invalid."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    read = _number(value)
    raise wrong(value, "a whole number", f"write {int(read)}" if read is not None and read.is_integer() else "")


def read_float(value: Any, _: Any) -> float:
    """A number, not NaN; 1 is a fine one. Raises Invalid."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
        return float(value)
    read = _number(value)
    raise wrong(value, "a number", f"write {value.strip()}, without quotes" if read is not None else "")


def _number(value: Any) -> float | None:
    """The finite number that a value of the wrong type spells."""
    if isinstance(value, bool) or not isinstance(value, str | float):
        return None
    try:
        read = float(value)
    except ValueError:
        return None
    return read if math.isfinite(read) else None


def read_text(value: Any, _: Any) -> str:
    """Text; a number must be quoted to be one. Raises Invalid."""
    if isinstance(value, str):
        return value
    scalar = isinstance(value, bool | int | float)
    raise wrong(value, "text", f"write '{format_value(value)}', in quotes" if scalar else "")


def read_path(value: Any, _: Any) -> Path:
    """A path, written as text. Raises Invalid."""
    return Path(read_text(value, str))


def read_literal(value: Any, hint: Any) -> Any:
    """One of the options of a ``Literal``, of its very type. Raises Invalid."""
    options = typing.get_args(hint)
    # True == 1 == 1.0 in Python; in a file they are three different things.
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    spellings = [format_value(option) for option in options]
    raise wrong(
        value,
        f"one of {', '.join(spellings)}",
        nearest(format_value(value), spellings) if isinstance(value, str) else "",
    )
