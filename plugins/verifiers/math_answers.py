"""The verifier ``math`` compares answers as mathematics, or as text where the right answer is no mathematics."""

from __future__ import annotations

import re

from .choices import choice, is_letter
from .exact_text import exact
from .math_process import equal
from .math_text import (
    clean,
    compact,
    in_one_line,
    is_expression,
    is_product,
    is_range,
    last_expression,
    only_formula,
    to_latex,
)
from .numerals import Numeral, read_number

LONGEST = 200
"""Largest number of characters in an answer that is read."""
_UNIT = re.compile(
    r"(.*[\d.}]\\?%?)(?:\s*(\^\{?\\circ\s*\}?\s*[CFK]?)|\s*([A-Za-z]{2,}(?:\^\{?-?\d\}?)?(?:\s?/\s?[A-Za-z]+)?)"
    r"|\s+([mgshlLNJWVK](?:\^\{?-?\d\}?)?(?:\s?/\s?[A-Za-z]+(?:\^\{?-?\d\}?)?)?))"
)
"""Pattern of a number and its unit: degrees, a word, or after a space one letter (5 m, but not 5m or 5 x)."""
_MONEY = re.compile(r"-?\s*(\\?[$€£¥₹])\s*(.*)")
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_SPELLED = {"usd": "dollar", "eur": "euro", "gbp": "pound", "jpy": "yen", "inr": "rupee"}
_ENDLESS = re.compile(r"\d{5,}\s*!|!\s*!|\^\s*\{?[+-]?\d{5,}|\^[^-+=,]*\^[^-+=,]*\^")
"""Pattern of factorials and powers that are larger than any right answer."""


def math(answer: str, gold: str) -> bool | None:
    """Return whether two texts are equal as mathematics: the number 1234 is 1,234 as well as 2468/2 or $1234.00.

    There may be words around the answer. Of several expressions the last one counts, so that ``3 + 4 = 7`` is 7.
    Numbers are compared exactly, but a decimal such as 0.333333 may differ by a millionth from a number that no
    decimal equals, such as 1/3 or a root. Other mathematics is compared by math-verify, in a process of its own
    with three seconds of processor time. What takes longer, or has more than 200 characters, cannot be read and
    gives ``None``.

    A right answer that is no expression is compared as text: words, dates, times, ranges, ratios, versions, telephone
    numbers, lists with dots. A right answer of one capital letter is compared by :func:`choice`.

    Raises:
        MissingExtraError: math-verify is needed and not installed.
    """
    right = clean(gold)
    if is_letter(right):
        return choice(answer, right)
    as_text = _as_text(answer, gold)
    if as_text or len(gold) > LONGEST or is_range(right):
        return as_text
    gold_value = _read(in_one_line(right))
    if gold_value is None:
        return as_text
    if len(answer) > LONGEST:
        return None
    value = _read(last_expression(in_one_line(clean(answer))))
    if value is None:
        return None
    if _other_unit(answer, gold):
        return False
    same = _compare(value, gold_value)
    return same if same is None or isinstance(same, bool) else as_text


def _read(text: str) -> Numeral | str | None:
    """Read a number, or an expression as LaTeX; ``None`` for any other text, and for what would take too long."""
    bare = _without_unit(text)
    number = read_number(bare)
    if number is not None:
        return number
    if not is_expression(bare) or _ENDLESS.search(bare.replace("**", "^")):
        return None
    return to_latex(bare)


def _compare(value: Numeral | str, gold: Numeral | str) -> bool | str | None:
    """Return whether a number or expression equals the right one, as :func:`.math_process.equal` does."""
    if isinstance(gold, Numeral) and isinstance(value, str) and "=" in value:
        before, _, after = value.rpartition("=")
        result = read_number(before if re.fullmatch(r"\s*[A-Za-z]\s*", after) else after)
        value = value if result is None else result
    if isinstance(value, Numeral) and isinstance(gold, Numeral):
        return value.equals(gold)
    return equal(_latex(gold), _latex(value))


def _latex(value: Numeral | str) -> str:
    return value.latex if isinstance(value, Numeral) else value


def _as_text(answer: str, gold: str) -> bool | None:
    """Compare as :func:`exact` does, the whole answer or, if it has a single formula, that formula."""
    right = compact(clean(gold))
    return exact(compact(only_formula(answer)), right) or exact(compact(clean(answer)), right)


def _without_unit(text: str) -> str:
    """Return the text without its unit: ``5`` for ``5 cm``."""
    return _split_unit(text)[0]


def _other_unit(answer: str, gold: str) -> bool:
    """Return whether both are numbers with a unit, and the units differ."""
    units = [_split_unit(clean(text))[1] for text in (answer, gold)]
    return all(units) and units[0] != units[1]


def _split_unit(text: str) -> tuple[str, str]:
    """Split a number from its unit, which is returned in a normal spelling; any other text has no unit."""
    if (money := _MONEY.fullmatch(text)) and read_number(money[2]) is not None:
        return text, _CURRENCIES[money[1][-1]]
    if read_number(text) is not None:  # 0xFF is no count of a unit xFF
        return text, ""
    match = _UNIT.fullmatch(text)
    if match is None or read_number(match[1]) is None:
        return text, ""
    unit = match[2] or match[3] or match[4]
    if is_product(unit):
        return text, ""
    unit = re.sub(r"[{}\s]|s$", "", unit.casefold()).replace(r"^\circ", "degree")
    return match[1], _SPELLED.get(unit, unit)
