"""The verifier ``math``: equal as mathematics, or as text where the right answer is no mathematics."""

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
"""Characters of an answer; longer ones are not read."""
_UNIT = re.compile(
    r"(.*[\d.}]\\?%?)(?:\s*(\^\{?\\circ\s*\}?\s*[CFK]?)|\s*([A-Za-z]{2,}(?:\^\{?-?\d\}?)?(?:\s?/\s?[A-Za-z]+)?)"
    r"|\s+([mgshlLNJWVK](?:\^\{?-?\d\}?)?(?:\s?/\s?[A-Za-z]+(?:\^\{?-?\d\}?)?)?))"
)
"""A number and what it counts: degrees, a word, or after a space one letter that is a unit (5 m, but not 5m or 5 x)."""
_MONEY = re.compile(r"-?\s*(\\?[$€£¥₹])\s*(.*)")
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_SPELLED = {"usd": "dollar", "eur": "euro", "gbp": "pound", "jpy": "yen", "inr": "rupee"}
_ENDLESS = re.compile(r"\d{5,}\s*!|!\s*!|\^\s*\{?[+-]?\d{5,}|\^[^-+=,]*\^[^-+=,]*\^")
"""Factorials and powers that are larger than anything that is a right answer."""


def math(answer: str, gold: str) -> bool | None:
    """Equal as mathematics: the number 1234 is 1,234 as well as 2468/2 or $1234.00.

    Around the answer there may be words; of several expressions the last one counts, so ``3 + 4 = 7`` is 7. Numbers are
    compared exactly; a decimal such as 0.333333 may be a millionth away from a number that is none, such as 1/3 or a
    root. All else that is mathematics is compared by math-verify, in a process of its own with three seconds of
    processor time: what takes longer cannot be read, nor can an answer of more than 200 characters.

    A right answer that is no expression is compared as text: words, dates, times, ranges, ratios, versions, telephone
    numbers, lists with dots. A right answer of one capital letter is that of a multiple choice, as by :func:`choice`.

    Raises:
        MissingExtraError: math-verify is needed and not installed.
    """
    right = clean(gold)
    if is_letter(right):
        return choice(answer, right)
    as_text = _as_text(answer, gold)
    if as_text or len(gold) > LONGEST or is_range(right):
        return as_text
    wanted = _read(in_one_line(right))
    if wanted is None:
        return as_text
    if len(answer) > LONGEST:
        return None
    said = _read(last_expression(in_one_line(clean(answer))))
    if said is None:
        return None
    if _other_unit(answer, gold):
        return False
    verdict = _compare(said, wanted)
    return verdict if verdict is None or isinstance(verdict, bool) else as_text


def _read(text: str) -> Numeral | str | None:
    """A number, an expression in LaTeX, or ``None`` for what is neither, and what would take for ever."""
    bare = _without_unit(text)
    number = read_number(bare)
    if number is not None:
        return number
    if not is_expression(bare) or _ENDLESS.search(bare.replace("**", "^")):
        return None
    return to_latex(bare)


def _compare(said: Numeral | str, wanted: Numeral | str) -> bool | str | None:
    """As :func:`.math_process.equal`."""
    if isinstance(wanted, Numeral) and isinstance(said, str) and "=" in said:
        before, _, after = said.rpartition("=")
        result = read_number(before if re.fullmatch(r"\s*[A-Za-z]\s*", after) else after)
        said = said if result is None else result
    if isinstance(said, Numeral) and isinstance(wanted, Numeral):
        return said.equals(wanted)
    left, right = (value.latex if isinstance(value, Numeral) else value for value in (said, wanted))
    return equal(right, left)


def _as_text(answer: str, gold: str) -> bool | None:
    """As :func:`exact`; of an answer with a single formula, the formula may be it."""
    right = compact(clean(gold))
    return exact(compact(only_formula(answer)), right) or exact(compact(clean(answer)), right)


def _without_unit(text: str) -> str:
    """``5`` of ``5 cm``."""
    return _split_unit(text)[0]


def _other_unit(answer: str, gold: str) -> bool:
    """Whether both are a number and a unit, and the units differ."""
    units = [_split_unit(clean(text))[1] for text in (answer, gold)]
    return all(units) and units[0] != units[1]


def _split_unit(text: str) -> tuple[str, str]:
    """A number and its unit in a normal spelling; the text and nothing where it is something else."""
    if (money := _MONEY.fullmatch(text)) and read_number(money[2]) is not None:
        return text, _CURRENCIES[money[1][-1]]
    if read_number(text) is not None:  # 0xFF is no count of a unit xFF
        return text, ""
    found = _UNIT.fullmatch(text)
    if found is None or read_number(found[1]) is None:
        return text, ""
    unit = found[2] or found[3] or found[4]
    if is_product(unit):
        return text, ""
    unit = re.sub(r"[{}\s]|s$", "", unit.casefold()).replace(r"^\circ", "degree")
    return found[1], _SPELLED.get(unit, unit)
