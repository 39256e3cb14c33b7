"""Numbers as people read them."""

from __future__ import annotations

import math
import re

NOTHING = "–"


def short(number: float | None, form: str = ".3g") -> str:
    """A real minus sign, and no zeros before an exponent; a dash for what was not computed."""
    if number is None or not math.isfinite(number):
        return NOTHING if number is None else str(number)
    return re.sub(r"e([+-])0*", r"e\1", format(number, form)).replace("-", "−").replace("e+", "e")


def with_error(value: float | None, se: float | None) -> str:
    """The value to two digits of its error: ``0.0123 ± 0.0045``, with one power of ten for both."""
    if value is None or se is None or not (math.isfinite(value) and math.isfinite(se)) or se <= 0:
        known = short(value)
        return known if value is None or se is None else f"{known} ± {short(se)}"
    power = math.floor(math.log10(max(abs(value), se)))
    shown = power if power < -3 or power > 4 else 0
    decimals = max(0, 1 - math.floor(math.log10(se)) + shown)
    both = f"{value / 10.0**shown:.{decimals}f} ± {se / 10.0**shown:.{decimals}f}".replace("-", "−")
    return f"({both})e{shown}".replace("-", "−") if shown else both
