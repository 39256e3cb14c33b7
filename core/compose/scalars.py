"""Single values are read strictly: a type is what it says, and where another one spells it, the error says how."""

from __future__ import annotations

import math
import typing
from pathlib import Path

from ..errors import nearest
from ..paths import unusable
from .problems import Invalid, Problem
from .spec import format_value

SMALLEST, LARGEST = 1.1754943508222875e-38, 3.4028234663852886e38
"""The range of single precision, in which most numbers of an experiment are used."""
TRUTH = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def wrong(value: object, expected: str, fix: str = "") -> Invalid:
    """What is said of a value that is not what was expected."""
    return Invalid(Problem(f"must be {expected}", value=value, fix=fix))


def read_bool(value: object, _: object) -> bool:
    """Read ``true`` or ``false``. Raises Invalid."""
    if isinstance(value, bool):
        return value
    truth = TRUTH.get(value.strip().lower()) if isinstance(value, str) else None
    raise wrong(value, "true or false", f"write {truth}" if truth else "")


def read_int(value: object, _: object) -> int:
    """Read a whole number of at most 32 bits; neither 3.0 nor text. Raises Invalid."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not -(2**31) <= value < 2**32:
            raise wrong(value, f"a whole number from {-(2**31)} to {2**32 - 1}")
        return value
    read = _number(value)
    near = read is not None and read.is_integer() and abs(read) < 2**63
    raise wrong(value, "a whole number", f"write {int(read)}" if read is not None and near else "")


def read_float(value: object, _: object) -> float:
    """Read a number within single precision, or infinity, not NaN; 1 is a fine one. Raises Invalid."""
    if isinstance(value, int | float) and not isinstance(value, bool) and not _is_nan(value):
        if value in (0, math.inf, -math.inf) or SMALLEST <= abs(value) <= LARGEST:
            return float(value) + 0.0  # -0.0 is 0, and the same experiment
        raise wrong(value, f"a number in single precision, {SMALLEST:.2g} to {LARGEST:.2g} in size, or 0")
    read = _number(value)
    raise wrong(value, "a number", f"write {str(value).strip()}, without quotes" if read is not None else "")


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _number(value: object) -> float | None:
    """The finite number that a value of the wrong type spells."""
    if isinstance(value, bool) or not isinstance(value, str | float):
        return None
    try:
        read = float(value)
    except ValueError:
        return None
    return read if math.isfinite(read) else None


def read_text(value: object, _: object) -> str:
    """Read text; a number must be quoted to be one. Raises Invalid."""
    if isinstance(value, str):
        if reason := text_reason(value):
            raise Invalid(Problem(reason, value=value))
        return value
    if isinstance(value, float):  # 1e5 has become 100000.0
        raise wrong(value, "text", "put it in quotes as it is meant")
    raise wrong(value, "text", f"write '{format_value(value)}', in quotes" if isinstance(value, bool | int) else "")


def text_reason(text: str) -> str:
    """What no file, no path and no terminal takes; empty if there is nothing of it."""
    if "\0" in text:
        return "has a null character"
    return "is not valid Unicode text" if any("\ud800" <= char <= "\udfff" for char in text) else ""


def read_path(value: object, _: object) -> Path:
    """Read a path, written as text. Raises Invalid."""
    text = read_text(value, str)
    if reason := unusable(text):
        raise Invalid(Problem(f"is no path: it {reason}", value=value))
    return Path(text)


def read_literal(value: object, hint: object) -> object:
    """Read one of the options of a ``Literal``, of its very type. Raises Invalid."""
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
