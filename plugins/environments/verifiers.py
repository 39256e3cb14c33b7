"""The built-in verifiers, and a function that finds an answer between tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs

from ...core.components import Verifier
from .choices import choice, letters_for
from .exact_text import exact
from .math_answers import math

__all__ = ["Choice", "Exact", "Math", "choice", "exact", "math", "tagged"]


@attrs.frozen
class Math(Verifier):
    """An answer is right if it equals the right one as mathematics: 1234 is 1,234 and 2468/2.

    Where the right answer is no mathematics, the two are compared as text. An answer that cannot be read as
    mathematics, or not in time, is invalid.
    """

    instruction = "Solve the problem. Answer with the final result alone, for example 42."

    def verify(self, answer: str, golds: Sequence[str]) -> bool | None:
        return _any_of(math, answer, golds)


@attrs.frozen
class Exact(Verifier):
    """An answer is right if it equals the right one as text; any text can be read.

    Case, white space, full-width forms and a full stop at the end make no difference.
    """

    instruction = "Answer the question. Give the answer alone, without a sentence around it."

    def verify(self, answer: str, golds: Sequence[str]) -> bool | None:
        return _any_of(exact, answer, golds)


@attrs.frozen
class Choice(Verifier):
    """An answer is right if it names the right option: ``A``, ``(A)``, ``A) Paris``, ``The answer is A``.

    An answer that names several options, or none, is invalid.
    """

    instruction = "Choose one of the options. Answer with its letter alone, for example B."

    def verify(self, answer: str, golds: Sequence[str]) -> bool | None:
        return _any_of(choice, answer, golds)

    def objection(self, question: str, golds: Sequence[str]) -> str:
        return letters_for(question, golds)


def _any_of(equal: Callable[[str, str], bool | None], answer: str, golds: Sequence[str]) -> bool | None:
    """Return whether the answer equals one of the right ones; ``None`` if it can be compared with none of them."""
    verdicts = []
    for gold in golds:
        verdicts.append(equal(answer, gold))
        if verdicts[-1]:
            return True
    return None if all(verdict is None for verdict in verdicts) else False


_BLOCK = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def tagged(response: str) -> str | None:
    """Return the text between ``<answer>`` and ``</answer>``; ``None`` unless there is exactly one of each."""
    if response.count("<answer>") != 1 or response.count("</answer>") != 1:
        return None
    match = _BLOCK.search(response)
    return match[1].strip() if match else None
