"""The mathematics in a text is found here: the last expression of an answer, cleaned and in LaTeX."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()")
_SIGNS = {
    **dict.fromkeys("−–—‐‑‒", "-"),
    **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2002\u2003", " "),
    "×": r"\times ",
    "⋅": r"\cdot ",
    "·": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "π": r"\pi ",
    "θ": r"\theta ",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}",
    "°": r"^\circ ",
    "’": "'",
    **dict.fromkeys("“”„«»", '"'),
    "≈": "",
}
_THOUSANDS = re.compile(r"\{,\}|,\\!\s*")
_SPACING = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad\b|~")
_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}")
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|exp|log|ln|sqrt|pi|infty|max|min|gcd|lcm|det"
_BARE = re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS})(?![A-Za-z])")
_PRODUCT = "ab|ba|ac|ca|bc|cb|abc|mn|nm|pq|qp|[xyz]{2,3}"
_WORD = re.compile(
    rf"(?<![\\A-Za-z])(?<!\b0(?=[xX][0-9a-fA-F]+\b))(?!(?:{_FUNCTIONS}|{_PRODUCT})(?![A-Za-z]))[^\W\d_]{{2,}}(?:['-][^\W\d_]+)*(?:\^\{{?-?\d\}}?)?"
)
"""Pattern of at least two letters that are neither a function nor a product of variables, with the power of a unit."""
_DASH = re.compile(rf"(?<![\\A-Za-z])(?!(?:{_FUNCTIONS}|{_PRODUCT})(?![A-Za-z]))[^\W\d_]{{2,}}-(?=[\d.])")
"""Pattern of a word and a dash that is no sign: ``the answer is—5``."""
_DENIAL = re.compile(
    r"\b(?:not|cannot|[a-z]+n't|rather than|instead of)(?:\s+(?:be|equal|to|exactly|the|answer|result))*\s+(?=\S)",
    re.IGNORECASE,
)
_DENIED = "\0"
"""Mark before an expression that the answer denies to be the result."""
_UNITS = (
    "ft|feet|foot|yards?|yd|miles?|km|m|hours?|hrs?|h|minutes?|mins?|days?|weeks?|months?|years?|pounds?|lbs?|kg|"
    "dollars?|euros?|degrees?|gallons?|liters?"
)
_COMPOUND = re.compile(
    rf"\d\s*(?:(?:{_UNITS})\.?,?\s+(?:and\s+)?\d+(?:\.\d+)?\s*[A-Za-z]+|(?:remainder|rem\.?|r)\s*\d+)\W*$",
    re.IGNORECASE,
)
"""Pattern of one quantity in two parts, such as 5 ft 3 in or 3 remainder 2: its last part is not the answer."""
_JOINED = re.compile(r"\s*,?\s*\b(?:and|or)\b\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\s*\b(?:per ?cent|percentage|pct)\b", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w)}])(?:\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__|`([^`]+)`)(?![\w({])")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]|\\\((.+?)\\\)|(?<!\\)\$([^$]+)\$", re.DOTALL)
_SENTENCE = re.compile(r"[.:;?](?:\s|$)|\n")

_STRUCTURE = re.compile(r"\+?\d+(?:[./-]\d+){2,}|\(\d{3}\)\s*\d{3}-\d{4}|.*\d\s*:\s*\d.*", re.DOTALL)
"""Pattern of dates, telephone numbers, versions and addresses, times and ratios."""
_RANGE = re.compile(r"\\?[$€£]?\d[\d.,/]*\s*\\?%?\s*-\s*\\?[$€£]?\d[\d.,/]*\s*\\?%?")
_CODE = re.compile(r"(?<![\\A-Za-z_])[A-Za-z]\d|(?<![\d._^{])\d+\s+\d|(?<![\d.,])0\d|\\[lc]?dots|\.\.\.|…")
"""Pattern of what is no product, no number and no complete list: H2O, 1 2, 007, or 1, 2, ..."""
_DEEPEST = 12
"""Largest depth of brackets within brackets that are read."""
_SYMBOLS = re.compile(r"[\w\s\\+\-*/^=<>(){}\[\]|!.,%'&]*")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """Remove what only changes the look of a text: boxes, emphasis, dollar signs of formulas, signs of Unicode."""
    # an answer of GSM8K has its result after ####
    text = _last_boxed(_signs(text.rpartition("####")[2].strip()))
    text = _EMPHASIS.sub(lambda match: match[1] or match[2] or match[3], text)
    text = _WRAPPER.sub(r"\1", _SPACING.sub(" ", _THOUSANDS.sub(",", text)))
    text = re.sub(r"\\(?:left|right|big|Big)(?![A-Za-z])", "", text)
    text = re.sub(r"\\varnothing(?![A-Za-z])", r"\\emptyset", text)
    whole = _FORMULA.fullmatch(text)
    if whole:
        text = next(group for group in whole.groups() if group)
    return text.strip().removesuffix(".").strip()


def only_formula(text: str) -> str:
    """Return the formula of an answer that has exactly one; empty for other answers."""
    formulas = _formulas(text)
    return clean(formulas[0]) if len(formulas) == 1 else ""


def _formulas(text: str) -> list[str]:
    """List what stands between the borders of formulas."""
    formulas = []
    for match in _FORMULA.finditer(text):
        # one group of the pattern matches, the one with the borders of this formula
        formulas += [group for group in match.groups() if group]
    return formulas


def in_one_line(text: str) -> str:
    """Remove the borders of formulas from a cleaned text; parts that ``and`` or ``or`` joins become one list."""
    text = _PERCENT.sub("%", _without_delimiters(text))
    return _JOINED.sub(", ", text) if re.search(r"\d", text) else text


def last_expression(text: str) -> str:
    """Return the last expression, among the words of an answer in one line, that the answer does not deny; or empty."""
    if _COMPOUND.search(text):
        return ""
    text = _DENIAL.sub("\n" + _DENIED, text)
    parts = _SENTENCE.split(_WORD.sub("\n", _DASH.sub("\n", text)))
    has_words = len(parts) > 1
    parts = [part.strip(" ,'\"=:") for part in parts]
    # among words, a part without a digit or a command of LaTeX is punctuation or a single letter
    expressions = [part for part in parts if re.search(r"\d|\\[a-z]", part) or (part and not has_words)]
    expressions = [part for part in expressions if _DENIED not in part]
    return expressions[-1] if expressions else ""


def is_expression(text: str) -> bool:
    """Say whether a cleaned text can be mathematics: no words, codes, dates, times, versions or telephone numbers."""
    return bool(
        text
        and _SYMBOLS.fullmatch(text)
        and not _WORD.search(text)
        and not _CODE.search(text)
        and not _STRUCTURE.fullmatch(text)
        and _is_balanced(text)
    )


def is_product(text: str) -> bool:
    """Say whether a word is read as a product of variables: ``xy`` is, ``cm`` is not."""
    return re.fullmatch(_PRODUCT, text) is not None


def is_range(text: str) -> bool:
    """Say whether a right answer is a range, two numbers with a dash: no result is written as a difference."""
    return _RANGE.fullmatch(text) is not None


def to_latex(text: str) -> str:
    """Write a cleaned expression as LaTeX, also ``sqrt(2)``, ``2**10`` and ``(2)(3)``."""
    text = _BARE.sub(r"\\\1 ", text.replace("**", "^"))
    text = re.sub(r"\\sqrt\s*(\d+)", r"\\sqrt{\1}", _braced(text, r"\sqrt"))
    text = re.sub(r"\^\s*([+-]?\d+(?:\.\d+)?)", r"^{\1}", _braced(text, "^"))
    return re.sub(r"\)\s*\(", r")\\cdot(", text)


def compact(text: str) -> str:
    """Remove the spaces around dashes, colons, commas and slashes, in which texts with the same meaning differ."""
    return re.sub(r"\s*([-:/,])\s*", r"\1", text)


def _signs(text: str) -> str:
    """Replace signs of Unicode by their names in LaTeX."""
    text = "".join(_SIGNS.get(character, character) for character in fold_width(text))
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻⁽⁾ⁿ]+", lambda run: f"^{{{run[0].translate(_SUPER)}}}", text)
    text = re.sub("[₀-₎]+", lambda run: f"_{{{run[0].translate(_SUB)}}}", text)
    text = re.sub(r"√\s*(\([^()]*\)|\{[^{}]*\}|\d+(?:\.\d+)?|[A-Za-z])", lambda root: _root(root[1]), text)
    return "".join(_vulgar(character) for character in text)


def _root(under: str) -> str:
    return rf"\sqrt{{{under[1:-1] if under[0] in '({' else under}}}"


def _vulgar(character: str) -> str:
    """Write ½ and other fractions of Unicode as fractions of LaTeX."""
    if not unicodedata.decomposition(character).startswith("<fraction>"):
        return character
    above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
    return rf"\frac{{{above}}}{{{below}}}" if above and below else character


def fold_width(text: str) -> str:
    """Replace full-width and half-width forms by ordinary characters, and no-break spaces by spaces.

    Characters without a width are removed: marks of direction, soft hyphens, places where a line may break.
    """
    if text.isascii():
        return text
    text = "".join(character for character in text if unicodedata.category(character) != "Cf")
    folded = (
        unicodedata.normalize("NFKC", character)
        if unicodedata.decomposition(character).startswith(("<wide>", "<narrow>", "<noBreak>"))
        else character
        for character in text
    )
    return unicodedata.normalize("NFC", "".join(folded))


def _is_balanced(text: str) -> bool:
    """Say whether every bracket is closed, by any kind (intervals mix them), and none is deep inside others."""
    depth = 0
    for character in re.sub(r"\\[{}]", "", text):
        depth += (character in "([{") - (character in ")]}")
        if not 0 <= depth <= _DEEPEST:
            return False
    return depth == 0


def _last_boxed(text: str) -> str:
    """Return the content of the last box, or the text if it has none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return text
    inner = _group(text, start + len(r"\boxed"), "{}")
    return text if inner is None else inner


def _group(text: str, start: int, pair: str) -> str | None:
    """Return what stands between the bracket at ``start`` and the one that closes it; ``None`` if none does."""
    depth = 0
    for position in range(start, len(text)):
        depth += (text[position] == pair[0]) - (text[position] == pair[1])
        if not depth:
            return text[start + 1 : position]
    return None


def _braced(text: str, before: str) -> str:
    """Turn parentheses after ``before`` into braces."""
    parts, position = [], 0
    for match in re.finditer(re.escape(before) + r"\s*\(", text):
        inner = _group(text, match.end() - 1, "()")
        if inner is not None and match.start() >= position:
            parts += [text[position : match.start()], before, "{", inner, "}"]
            position = match.end() + len(inner) + 1
    return "".join([*parts, text[position:]])


def _without_delimiters(text: str) -> str:
    """Remove the signs around formulas. If there is one formula among nothing but words, return it alone."""
    # a "formula" with words is none: "$5 and $" stands between two sums of money
    formulas = [formula for formula in _formulas(text) if not _WORD.search(formula)]
    around = _FORMULA.sub(" ", text)
    if len(formulas) == 1 and not re.search(r"[\d=+*/^<>]", around):
        return formulas[0]
    return re.sub(r"\\[()\[\]]", " ", re.sub(r"\\?\$", "", text))
