"""Numbers are written as people read them."""

from __future__ import annotations

import math
import re

NOTHING = "–"
ROUNDING, LEAST = 1e-15, 1e-300
"""Limits of float64, relative and absolute, below which an error has no digits to show beside the value."""


def short(number: float | None, form: str = ".3g") -> str:
    """Write a number with a real minus sign and no zeros before an exponent; what was not computed is a dash."""
    if number is None or not math.isfinite(number):
        return NOTHING if number is None else str(number)
    return re.sub(r"e([+-])0*", r"e\1", format(number, form)).replace("-", "−").replace("e+", "e")


def with_error(value: float | None, se: float | None) -> str:
    """Write the value to two digits of its error: ``0.0123 ± 0.0045``, with one power of ten for both.

    The value stands alone where no error is known (``None`` or NaN). An error that is 0, not finite, or less than the
    rounding of the value stands beside it, but does not decide its digits.
    """
    if value is None or se is None or math.isnan(se):
        return short(value)
    if not (math.isfinite(value) and math.isfinite(se)) or se <= ROUNDING * abs(value) or se < LEAST:
        return f"{short(value)} ± {short(se)}"
    power = math.floor(math.log10(max(abs(value), se)))
    shown = power if power < -3 or power > 4 else 0
    decimals = max(0, 1 - math.floor(math.log10(se)) + shown)
    both = f"{value / 10.0**shown:.{decimals}f} ± {se / 10.0**shown:.{decimals}f}".replace("-", "−")
    return f"({both})e{shown}".replace("-", "−") if shown else both
