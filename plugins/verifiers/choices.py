"""The verifier ``choice`` finds out which option of a multiple choice an answer names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .exact_text import exact
from .math_text import clean

_LABEL = r"(?:[A-Za-z]|\d{1,2})"
_OPEN, _CLOSE = r"[\s(\[{<*_`\"'$]*", r"[\s)\]}>*_`\"'$]*"
_ALONE = re.compile(rf"{_OPEN}({_LABEL}){_CLOSE}[.:)]?{_CLOSE}")
_LEADING = re.compile(rf"{_OPEN}(?:\(({_LABEL})\)|({_LABEL})\s*[).:\]])(?:{_CLOSE}\s|{_CLOSE}$|(?=\S{{2}}))")
_STATED = re.compile(
    r"\b(?:answer|choice|option|choose|chose|pick|select)\b[\"'*_`\s]*"
    r"(?:(?:is|are|would be|must be|should be|seems to be)\b|:|=|\bletter\b|\boption\b|\bchoice\b|\s)*"
    rf"{_OPEN}({_LABEL})(?![A-Za-z0-9'])(?=(.?))",
    re.IGNORECASE,
)
_STANDING = re.compile(r"(?<![\w'\\])([A-Z])(?![\w'])")
_NOT = re.compile(r"\b(?:not|n't|neither|nor|except|wrong)\W*\(?$", re.IGNORECASE)
_ANOTHER = re.compile(rf"{_CLOSE}(?:,|/|&|\bor\b|\band\b){_OPEN}(?:option )?([A-Z]|\d{{1,2}})(?![\w'])")
_OPTION = re.compile(r"^\s*\(?([A-Z])[).:]", re.MULTILINE)
"""Pattern of an option's letter at the beginning of a line."""
_LISTED = re.compile(r"(?:^|[\s(])([A-Z])[).](?=\s|$)")


def choice(answer: str, gold: str) -> bool | None:
    """Return whether the answer names the right option: ``A``, ``(A)``, ``**A**``, ``A) Paris``, ``The answer is A``.

    The right answer is a label, which is a letter or a number of one or two digits. Its text may follow (``A) Paris``);
    then the text alone is right as well. A right answer without a label is compared as text. An answer that names
    several options, or none, cannot be read and gives ``None``.
    """
    label, text = _right(clean(gold))
    if label is None:
        return exact(clean(answer), clean(gold))
    answered = named(answer)
    if answered is None:
        return True if text and exact(clean(answer), text) else None
    return answered == label


def letters_for(question: str, golds: Sequence[str]) -> str:
    """Return an objection if a question lists its options by letters and all right answers are numbers; else empty.

    Some data sets give the index of the right option; then no letter would ever be right.
    """
    if {"A", "B"} <= set(_OPTION.findall(question)) and all(gold.strip().isdigit() for gold in golds):
        letters = "the question lists its options by letters: write the letter of the right option in its place"
        return f"the right answer is {golds[0]}, and {letters}"
    return ""


def is_letter(text: str) -> bool:
    """Return whether a right answer is one capital letter, as in a multiple choice."""
    return re.fullmatch(r"\(?[A-Z]\)?", text) is not None


def named(answer: str) -> str | None:
    """Return the option that an answer names, as a capital letter or a number; ``None`` for none, or for several.

    The last statement of the kind ``the answer is`` counts first, then a label at the beginning, then the only capital
    letter that stands alone.
    """
    text = clean(answer)
    alone = _ALONE.fullmatch(text)
    if alone:
        return _key(alone[1])
    stated = [match for match in _STATED.finditer(text) if _is_label(match[1], match[2])]
    if stated:
        last = stated[-1]
        return None if _ANOTHER.match(text, last.end(1)) else _key(last[1])
    listed = {match[1] for match in _LISTED.finditer(text)}
    leading = _LEADING.match(text)
    if leading:
        label = _key(leading[1] or leading[2])
        return label if not listed - {label} and not _ANOTHER.match(text, leading.end()) else None
    standing = {match[1] for match in _STANDING.finditer(text) if not _is_other(text, match)}
    return standing.pop() if len(standing) == 1 and len(listed) < 2 else None


def _right(gold: str) -> tuple[str | None, str]:
    """Return label and text of a right answer."""
    alone = _ALONE.fullmatch(gold)
    if alone:
        return _key(alone[1]), ""
    leading = _LEADING.match(gold)
    if leading is None:
        return None, gold
    return _key(leading[1] or leading[2]), gold[leading.end() :].strip()


def _key(label: str) -> str:
    return label.upper() if label.isalpha() else str(int(label))


def _is_label(label: str, after: str) -> bool:
    """Return whether a letter is a label. A small one must not begin a word or phrase: ``the answer is a bird``."""
    return not label.islower() or not after or after in ").:,;]}*`\"'\n"


def _is_other(text: str, match: re.Match[str]) -> bool:
    """Return whether a capital letter is the pronoun, or an option that is denied."""
    pronoun = match[1] == "I" and re.match(r"\s+[a-z]", text[match.end() :])
    return bool(pronoun or _NOT.search(text[: match.start()]))
