"""Whether an answer is the right one: ``verify(answer, gold)`` -> yes, no, or ``None`` if it cannot be read."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from ...core.errors import MissingExtraError

Verifier = Callable[[str, str], bool | None]

_LONGEST = 200
_SECONDS = 3
_WORDS = re.compile(r"[^\d\\+*/^=<>(){}|$_]*[^\W\d_]{2}[^\d\\+*/^=<>(){}|$_]*")


def math(answer: str, gold: str) -> bool | None:
    """Equal as mathematics, by math-verify: the number 1234 is 1,234 as well as 2468/2 or $1234.00.

    Around the answer there may be words; of several expressions the last one counts, so ``3 + 4 = 7`` is 7. The right
    answer is read as one expression; if it is none, or consists of words, texts are compared, as by :func:`exact`.
    Answers of more than 200 characters are not read, nor those that take more than three seconds (a limit by signal, so
    in the main thread only).

    Raises:
        MissingExtraError: math-verify is not installed.
    """
    right = _parse(gold, as_latex=True)
    if not right:
        return exact(answer, gold)
    read = [*_parse(answer, as_latex=True), *_parse(answer)]
    if not read:
        return None
    from math_verify import verify

    return bool(verify(right, read, timeout_seconds=_seconds()))


@lru_cache(maxsize=4096)
def _parse(text: str, as_latex: bool = False) -> list[Any]:
    """The last expression in ``text``; ``as_latex``: the whole text as one, unless it marks its own expressions.

    Words are no expression: LaTeX would read them as products of letters.
    """
    try:
        from math_verify import parse
    except ImportError as error:
        raise MissingExtraError(
            "math-verify is not installed", "verifier: math", "pip install 'uncollapse[train]', or use verifier: exact"
        ) from error
    text = text.replace("\\$", "$")  # a sum of money, not the border of a formula
    if len(text) > _LONGEST or _WORDS.fullmatch(text):
        return []
    return parse(f"${text}$" if as_latex and "$" not in text else text, parsing_timeout=_seconds())


def _seconds() -> int | None:
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


def exact(answer: str, gold: str) -> bool | None:
    """Equal as text, but for case, white space, compatible Unicode forms and a full stop at the end."""
    read = _normal(answer)
    return read == _normal(gold) if read else None


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()


VERIFIERS: dict[str, Verifier] = {"math": math, "exact": exact}


def is_right(verifier: str, answer: str, golds: Iterable[str]) -> bool | None:
    """Whether the answer is one of the right ones; ``None`` if it cannot be read, whichever it is held against."""
    verdicts = []
    for gold in golds:
        verdicts.append(VERIFIERS[verifier](answer, gold))
        if verdicts[-1]:
            return True
    return None if all(verdict is None for verdict in verdicts) else False


_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def tagged(response: str) -> str | None:
    """What stands between ``<answer>`` and ``</answer>``, unless there is none of either, or more than one."""
    if response.count("<answer>") != 1 or response.count("</answer>") != 1:
        return None
    found = _BLOCK.search(response)
    return found[1].strip() if found else None
