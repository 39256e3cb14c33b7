"""The base class of verifiers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from .component import Component


class Verifier(Component):
    """Kind ``verifier``: whether the answer to a question with known answers is right, and how good it is.

    Each call must depend on its arguments alone: several episodes are played at once.
    """

    __slots__ = ()

    instruction: str = "Answer the question."
    """What the system message asks for where the environment has no words of its own."""

    @abstractmethod
    def verify(self, answer: str, golds: Sequence[str]) -> float | bool | None:
        """Whether ``answer`` is one of the right ones: true or false, or a score from 0 to 1, of which 1 is right.

        ``None``: the answer cannot be read, whatever it is held against, which makes the turn an invalid one.
        """

    def objection(self, question: str, golds: Sequence[str]) -> str:
        """Why no answer to this question could ever be found right; empty where one could.

        Asked once for each question of a data set, before anything is played.
        """
        return ""
