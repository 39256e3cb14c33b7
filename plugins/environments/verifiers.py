"""Whether an answer is the right one: ``verify(answer, gold)`` -> yes, no, or ``None`` if it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .choices import choice
from .exact_text import exact
from .math_answers import math

__all__ = ["VERIFIERS", "Verifier", "choice", "exact", "is_right", "math", "tagged"]

Verifier = Callable[[str, str], bool | None]

VERIFIERS: dict[str, Verifier] = {"math": math, "exact": exact, "choice": choice}


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
