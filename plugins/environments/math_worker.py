"""The process that asks math-verify: ``python -m uncollapse.plugins.environments.math_worker``.

It reads ``[right, answer]`` in LaTeX, a line of JSON each, and answers true, false, ``null`` (the answer cannot be
read) or ``"right"`` (the right one cannot). Texts come from a policy: sympy may run out of time or memory on them.
The kernel ends the process then, whatever sympy does; nothing else would stop a power of large numbers.
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

from .numerals import close

CPU_S = 3.0
"""Processor time for one question: how busy the machine is does not decide about rewards."""
MEMORY = 4 * 2**30
"""Bytes of address space."""
READY = "ready"
_DIGITS = 30


def serve() -> None:
    """Answer questions until nobody asks any more."""
    from math_verify import verify  # noqa: F401 - the slow import comes before the first question

    logging.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the business of whoever asks
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    print(json.dumps(READY), file=answers, flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        right, answer = json.loads(line)
        verdict = judge(right, answer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), file=answers, flush=True)


def judge(right: str, answer: str) -> bool | str | None:
    """Whether two expressions in LaTeX are equal; see the module for what else is answered."""
    try:
        gold, said = _parse(right), _parse(answer)
        if gold is None or said is None:
            return "right" if gold is None else None
        return _equal(gold, said)
    except (Exception, RecursionError):  # what sympy raises is anything
        return None


def _parse(latex: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    usual = LatexExtractionConfig().normalization_config
    # it would take the variables of 2ab for a unit, and leave them out
    config = LatexExtractionConfig(normalization_config=dataclasses.replace(usual, units=False))
    found = parse(f"${latex}$", [config], fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _equal(gold: Any, said: Any) -> bool:
    from math_verify import verify

    numbers = [_number(gold), _number(said)]
    if None not in numbers:
        return _numbers_equal(*numbers)
    return bool(verify(gold, said, timeout_seconds=None))


def _number(expression: Any) -> Any:
    """The number that an expression is, decimals exactly; ``None`` for variables, sets, relations, infinities."""
    from sympy import Expr, Float, Rational

    if not isinstance(expression, Expr) or expression.free_symbols:
        return None
    exact = expression.replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part)))
    value = exact.doit()
    return value if value.is_number and value.is_finite is not False else None


def _numbers_equal(gold: Any, said: Any) -> bool:
    """As :func:`.numerals.close`; a number that is no fraction, such as a root, is compared by its first 20 digits."""
    from sympy import Abs

    rational = [value.is_Rational for value in (gold, said)]
    if all(rational):
        return close(Fraction(int(said.p), int(said.q)), Fraction(int(gold.p), int(gold.q)))
    between = 10.0**-20
    if any(rational):
        decimal = gold if rational[0] else said
        between = 1e-6 if decimal.q > 1 else between
    first, second = gold.evalf(_DIGITS), said.evalf(_DIGITS)
    return bool(Abs(first - second) <= between * Abs(first))


if __name__ == "__main__":
    serve()
