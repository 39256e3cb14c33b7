"""The base class of verifiers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from .component import Component


class Verifier(Component):
    """A verifier decides whether an answer is right, given the known answers of its question. Kind ``verifier``.

    Each call must depend on its arguments alone, since several episodes are played at once.
    """

    __slots__ = ()

    instruction: str = "Answer the question."
    """The task in the system message, where the environment has no text of its own."""
    concurrency: int = 1
    """The largest number of answers that are verified at the same time, each in a thread of its own: 1 for a verifier
    that only computes, more for one that asks a server."""

    @abstractmethod
    def verify(self, answer: str, golds: Sequence[str]) -> float | bool | None:
        """Return whether ``answer`` is right: true or false, or a score from 0 to 1, where only 1 is right.

        ``None`` means that the answer cannot be read at all, which makes the turn invalid.

        Args:
            answer: the policy's answer.
            golds: the right answers of the question; one of them is enough.
        """

    def grade(self, question: str, answer: str, golds: Sequence[str]) -> float | bool | None:
        """Return what :meth:`verify` says, for verifiers that also look at the question. Environments call this one.

        Args:
            question: the question, as the policy saw it; empty where it is not known.
            answer: the policy's answer.
            golds: the right answers of the question.

        Raises:
            EpisodeLostError: there is no verdict, by no fault of the answer: its group is dropped. It must never be
                told as a wrong answer.
        """
        return self.verify(answer, golds)

    def objection(self, question: str, golds: Sequence[str]) -> str:
        """Return the reason why no answer to this question could be found right; empty where one could.

        It is called once for each question of a data set, before anything is played.
        """
        return ""
