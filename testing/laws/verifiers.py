"""Laws of verifiers."""

from __future__ import annotations

from ...core.compose.named import Named
from ...plugins.rollout.borders import CheckedVerifier
from ..problems import laws, require

GOLDS = (("42",), ("1/2", "0.5"), ("Paris", "the capital of France"), ("B",), ("",))
"""Right answers of questions, several of some."""
ANSWERS = ("42", "B", "Paris", "1/2", "", "I do not know.", "the answer is 42", "\\boxed{42}", "ü\n||", "9" * 500)


def _judges(named: Named) -> None:
    """A verifier says of any text: right, wrong, a score from 0 to 1, or that it cannot be read."""
    verifier = CheckedVerifier(named)
    require(named, "instruction", bool(verifier.instruction), "is empty: it says how to answer")
    for golds in GOLDS:
        verifier.objection("Which is it?\nA) one\nB) two", golds)
        for answer in ANSWERS:
            verifier.verify(answer, golds)
            verifier.grade("Which is it?", answer, golds)


def _repeats_itself(named: Named) -> None:
    """A verifier says the same of the same answer, whatever it was asked in between."""
    verifier = CheckedVerifier(named)
    first, second = ([verifier.verify(answer, golds) for golds in GOLDS for answer in ANSWERS] for _ in range(2))
    require(named, "verify", first == second, "said something else of the same answer when it was asked again")


def _takes_any_right_answer(named: Named) -> None:
    """A verifier that finds an answer right does so beside other right answers, too."""
    verifier = CheckedVerifier(named)
    for gold in ("42", "Paris", "B", "1/2"):
        for golds in ((gold, "another"), ("another", gold)):
            alone, beside = verifier.verify(gold, (gold,)), verifier.verify(gold, golds)
            what = f"found {gold!r} right of {[gold]}, and not of {list(golds)}: any of several right answers is right"
            require(named, "verify", alone != 1 or beside == 1, what)


LAWS = {"verifier": laws(_judges, _repeats_itself, _takes_any_right_answer)}
