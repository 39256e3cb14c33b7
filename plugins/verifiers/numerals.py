"""Numbers as people write them are read exactly: 1,234.50, 1e-3, 1 1/2, 50 %, 0x10."""

from __future__ import annotations

import re
from fractions import Fraction

import attrs

CLOSE = Fraction(1, 10**6)
"""Largest relative difference between a decimal and a number that has no last decimal."""

_WHOLE = r"(?:\d{1,3}(?:[, ]\d{3})+|\d+)"
_POWER = r"(?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*([+-]?\d{1,4})\s*\}|([+-]?\d{1,4})))"
_DECIMAL = re.compile(rf"({_WHOLE}?(?:\.\d+)|{_WHOLE}\.?)(?:[eE]([+-]?\d{{1,4}})|{_POWER})?")
_FRACTION = re.compile(rf"(?:({_WHOLE})\s+)?(?!0\d)({_WHOLE})\s*/\s*(?!0\d)({_WHOLE})")
_LATEX_FRACTION = re.compile(r"(\d+)?\s*\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\s*\{\s*(\d+)\s*\}")
_RADIX = re.compile(r"0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+")
_BASE = re.compile(r"([0-9A-Za-z]+)_(?:\{\s*(\d{1,2})\s*\}|(\d{1,2}))")
_SIGN = re.compile(r"([+-]?)\s*")
_PERCENT = re.compile(r"\s*\\?%$")
_CURRENCY = re.compile(r"\\?[$€£¥₹]")


@attrs.frozen
class Numeral:
    """A numeral is a text that is one number and nothing else."""

    value: Fraction
    """Number; with a percent sign, the number before it."""
    percent: bool = False
    """Whether a percent sign follows the number."""

    def equals(self, right: Numeral) -> bool:
        """Say whether this is the right number: 50 % equals 0.5, and also 50, from which only the sign is missing."""
        if self.value == right.value and (self.percent or right.percent):
            return True
        return close(self._plain, right._plain)

    @property
    def _plain(self) -> Fraction:
        return self.value / 100 if self.percent else self.value

    @property
    def latex(self) -> str:
        """Number in LaTeX."""
        value = self._plain
        return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def close(answer: Fraction, right: Fraction) -> bool:
    """Say whether two numbers are equal, or one is a decimal that stands for the other, as 0.333333 does for 1/3.

    That is so if the other one has no last decimal, and their difference is at most a millionth of the larger one.
    """
    if answer == right:
        return True
    decimals = [_is_decimal(value) for value in (answer, right)]
    approximate = answer if decimals[0] else right
    allowed = CLOSE * max(abs(answer), abs(right))
    return sum(decimals) == 1 and approximate.denominator > 1 and abs(answer - right) <= allowed


def _is_decimal(value: Fraction) -> bool:
    """Say whether a number has a last decimal: its denominator has no prime factors but 2 and 5."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


def read_number(text: str) -> Numeral | None:
    """Read the number that ``text`` is, or ``None``. Currency signs are ignored; commas and spaces group thousands."""
    text = _CURRENCY.sub("", text).strip()
    sign = _SIGN.match(text)
    assert sign is not None
    text = text[sign.end() :]
    percent = _PERCENT.search(text)
    if percent:
        text = text[: percent.start()]
    value = _unsigned(text)
    if value is None:
        return None
    return Numeral(-value if sign[1] == "-" else value, percent is not None)


def _unsigned(text: str) -> Fraction | None:
    """Read a number without sign, or ``None``."""
    if match := _DECIMAL.fullmatch(text):
        digits = re.sub(r"[, ]", "", match[1])
        exponent = int(match[2] or match[3] or match[4] or 0)
        return Fraction(digits) * Fraction(10) ** exponent
    if match := _FRACTION.fullmatch(text):
        return _mixed(*match.groups())
    if match := _LATEX_FRACTION.fullmatch(text):
        return _mixed(match[1], match[2] or match[4], match[3] or match[5])
    if match := _REPEATING.fullmatch(text):
        whole, digits, again = match.groups()
        # n digits that repeat are a fraction with n nines below, shifted behind the digits before them
        repeated = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(digits))
        return Fraction(f"{whole or 0}.{digits or 0}") + repeated
    if _RADIX.fullmatch(text):
        return Fraction(int(text, 0))
    if match := _BASE.fullmatch(text):
        return _in_base(match[1], int(match[2] or match[3]))
    return None


def _mixed(whole: str | None, above: str, below: str) -> Fraction | None:
    """Read a fraction with or without a whole number before it; ``None`` for 1 3/2, which is no mixed number."""
    integer, numerator, denominator = (int(re.sub(r"[, ]", "", part or "0")) for part in (whole, above, below))
    if not denominator or (integer and numerator >= denominator):
        return None
    return integer + Fraction(numerator, denominator)


def _in_base(digits: str, base: int) -> Fraction | None:
    """Read digits in a base; ``None`` if they are none there."""
    try:
        return Fraction(int(digits, base))
    except ValueError:
        return None
