"""The process that asks math-verify is ``python -m uncollapse.plugins.verifiers.math_worker``.

It reads ``[right, answer]`` in LaTeX, one line of JSON for each, and answers true, false, ``null`` (the answer cannot
be read) or ``"right"`` (the right answer cannot be read). Texts come from a policy, and sympy may run out of time or
memory on them. The kernel then ends the process, whatever sympy does; nothing else would stop a power of large numbers.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import resource
import signal
import sys
from fractions import Fraction
from typing import Any

from ...core.asked_process import READY
from .numerals import close

CPU_S = 3.0
"""Seconds of processor time for one question; with them, rewards do not depend on how busy the machine is."""
MEMORY = 4 * 2**30
"""Largest address space in bytes."""
_DIGITS = 30
"""Number of digits to which numbers that are no fractions are computed."""


def serve() -> None:
    """Answer questions until the input ends."""
    from math_verify import verify  # noqa: F401 - the slow import comes before the first question

    logging.disable()
    # a Ctrl-C goes to all processes of a terminal, and is handled by the one that asks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what libraries print must not stand among the answers
    answers = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(READY), file=answers, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        right, answer = json.loads(line)
        verdict = judge(right, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), file=answers, flush=True)


def judge(right: str, answer: str) -> bool | str | None:
    """Say whether two expressions in LaTeX are equal; the module says what else may be answered."""
    try:
        right_expression = _parse(right)
        expression = _parse(answer)
        if right_expression is None:
            return "right"
        if expression is None:
            return None
        return _equal(right_expression, expression)
    except (Exception, RecursionError):
        # sympy may raise anything
        return None


def _parse(latex: str) -> Any:
    """Read an expression of sympy; ``None`` if there is none."""
    from math_verify import LatexExtractionConfig, parse

    usual = LatexExtractionConfig().normalization_config
    # with units, the variables of 2ab would be taken for a unit, and left out
    config = LatexExtractionConfig(normalization_config=dataclasses.replace(usual, units=False))
    expressions = parse(f"${latex}$", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return expressions[0] if expressions else None


def _equal(right: Any, answer: Any) -> bool:
    """Compare two expressions, as numbers if both are."""
    from math_verify import verify

    numbers = [_number(right), _number(answer)]
    if None not in numbers:
        return _numbers_equal(*numbers)
    return bool(verify(right, answer, timeout_seconds=None))


def _number(expression: Any) -> Any:
    """Return the number that an expression is, decimals exactly; ``None`` for variables, sets, relations, infinity."""
    from sympy import Expr, Float, Rational

    if not isinstance(expression, Expr) or expression.free_symbols:
        return None
    exact = expression.replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part)))
    value = exact.doit()
    return value if value.is_number and value.is_finite is not False else None


def _numbers_equal(right: Any, answer: Any) -> bool:
    """Compare fractions as :func:`.numerals.close` does, and other numbers, such as roots, by their first 20 digits."""
    from sympy import Abs

    rational = [value.is_Rational for value in (right, answer)]
    if all(rational):
        return close(Fraction(int(answer.p), int(answer.q)), Fraction(int(right.p), int(right.q)))
    tolerance = 10.0**-20
    if any(rational):
        # a decimal may stand for a root or another number that has no last decimal
        fraction = right if rational[0] else answer
        tolerance = 1e-6 if fraction.q > 1 else tolerance
    right_value = right.evalf(_DIGITS)
    answer_value = answer.evalf(_DIGITS)
    return bool(Abs(right_value - answer_value) <= tolerance * Abs(right_value))


if __name__ == "__main__":
    serve()
