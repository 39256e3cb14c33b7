"""Results as plain data that JSON can hold: what is not a finite number is ``None``."""

from __future__ import annotations

import math
from typing import Any

from ...core.compose.plain_data import plain


def number(value: float) -> float | None:
    """``None`` for what is not a finite number."""
    return value if math.isfinite(value) else None


def numbers(value: Any) -> Any:
    """The same of everything inside mappings and lists."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [numbers(item) for item in value]
    return number(value) if isinstance(value, float) else plain(value)
