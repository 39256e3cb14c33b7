"""Results become plain data that JSON can hold: what is not a finite number becomes ``None``."""

from __future__ import annotations

import math
from typing import Any

from ...core.compose.plain_data import plain


def number(value: float) -> float | None:
    """Return the number, or ``None`` where it is not finite."""
    return value if math.isfinite(value) else None


def numbers(value: Any) -> Any:
    """Return the value as plain data, with :func:`number` of every number inside mappings and lists."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    return number(value) if isinstance(value, float) else plain(value)
