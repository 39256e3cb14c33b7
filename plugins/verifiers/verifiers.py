"""The built-in verifiers, and a function that finds an answer between tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs
from attrs.validators import ge, optional

from ...core.components import Verifier
from .choices import choice, letters_for
from .exact_text import contains, exact, normal
from .math_answers import math

__all__ = ["Choice", "Contains", "Exact", "Math", "choice", "exact", "math", "tagged"]


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


@attrs.frozen
class Contains(Verifier):
    """An answer is right if the right one stands in it as whole words; any text can be read.

    Case, white space and full-width forms make no difference: "It is New  York." contains "new york", and "142" does
    not contain "42". An answer that lists many possible ones is right as well, so ``longest`` may limit it.
    """

    instruction = "Answer the question."

    longest: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Largest number of characters of an answer; a longer one is wrong. ``None`` sets no limit."""

    def verify(self, answer: str, golds: Sequence[str]) -> bool | None:
        if self.longest is not None and len(answer) > self.longest:
            return False
        return _any_of(contains, answer, golds)

    def objection(self, question: str, golds: Sequence[str]) -> str:
        return "" if any(map(normal, golds)) else "is empty, and every text would contain it"


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
