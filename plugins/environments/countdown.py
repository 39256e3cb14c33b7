"""In Countdown one makes a target out of some numbers."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

import attrs
from attrs.validators import and_, ge, in_, le

from ...core.components import Env, Environment, Step
from .arithmetic import parse
from .common import Split, draw_task, refuse_after_end, seeded
from .metrics import ACCEPTED

_INNERMOST = re.compile(r"\((-?\d+) ([-+*/]) (-?\d+)\)")
"""An operation in parentheses whose operands are numbers."""
_LAST = re.compile(r"(-?\d+) ([-+*/]) (-?\d+)")


@attrs.frozen
class Puzzle:
    """A puzzle has numbers, a target to make of them, and one way to do it."""

    numbers: tuple[int, ...]
    """Numbers that must be used, each once."""
    target: int
    """Value of a right expression."""
    solution: str
    """Expression that is right."""

    @property
    def key(self) -> str:
        """Content as text: equal for equal targets and numbers, in whatever order."""
        return f"{' '.join(map(str, sorted(self.numbers)))} -> {self.target}"


@lru_cache(maxsize=8192)
def puzzle(min_numbers: int, max_numbers: int, largest: int, split: Split, seed: int) -> Puzzle:
    """Make the puzzle of a seed. Raises RunError if there is none."""
    rng = seeded("countdown", min_numbers, max_numbers, largest, seed)
    return draw_task(
        lambda: _draw(rng.randint(min_numbers, max_numbers), largest, rng),
        lambda drawn: drawn.key,
        split,
        f"countdown with {min_numbers} to {max_numbers} numbers up to {largest}",
    )


def _draw(count: int, largest: int, rng: random.Random) -> Puzzle | None:
    """Join random pairs by random operations until one value is left; ``None`` if it cannot be a target."""
    numbers = tuple(rng.randint(1, largest) for _ in range(count))
    terms = [(number, str(number)) for number in numbers]
    while len(terms) > 1:
        a, left = terms.pop(rng.randrange(len(terms)))
        b, right = terms.pop(rng.randrange(len(terms)))
        operation = rng.choice("+-*/")
        if operation == "/":
            if b == 0 or a % b:
                return None
            value = a // b
        else:
            value = {"+": a + b, "-": a - b, "*": a * b}[operation]
        terms.append((value, f"({left} {operation} {right})"))
    target, solution = terms[0]
    if not 1 <= target <= largest or target in numbers:
        return None
    # the outermost parentheses are not needed
    return Puzzle(numbers, target, solution[1:-1])


@attrs.frozen
class Countdown(Environment):
    """Make the target out of all the given numbers, each used once, with ``+ - * /`` and parentheses.

    The answer is one expression, such as ``(1 + 2) * 3``, as free text. Reward 1 if it equals the target exactly
    (fractions, no rounding), which is success; 0.1 if it uses exactly the given numbers; 0 otherwise. One answer ends
    the episode.

    Metric: ``share_of_played_actions_accepted`` (the answer is an expression that uses exactly the given numbers).

    The puzzles are generated from a solution, so each has one; the target is none of the numbers. Answers are parsed as
    arithmetic, never evaluated as Python; a sign before a number, ``=`` and text around the expression are refused.

    Rewards: TinyZero's and RAGEN's countdown, whose puzzles come from a data set.
    """

    min_numbers: int = attrs.field(default=3, validator=and_(ge(2), le(6)))
    """Smallest count of numbers in a puzzle."""
    max_numbers: int = attrs.field(default=4, validator=and_(ge(2), le(6)))
    """Largest count of numbers in a puzzle."""
    largest: int = attrs.field(default=99, validator=and_(ge(10), le(10**6)))
    """Largest number, and largest target."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of puzzles: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""

    actions = None
    least_reward = 0.0
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        if self.min_numbers > self.max_numbers:
            raise ValueError(f"min_numbers {self.min_numbers} is larger than max_numbers {self.max_numbers}")

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return (
            "Make the target with + - * / and parentheses, using each of the numbers exactly once. "
            "Answer with the expression alone, for example (1 + 2) * 3."
        )

    @property
    def demonstrated(self) -> Countdown:  # type: ignore[override]
        """The environment itself."""
        return self

    def make(self, seed: int, member: int = 0) -> CountdownEnv:
        """Make an episode with the puzzle of ``seed``, the same for every member."""
        return CountdownEnv(puzzle(self.min_numbers, self.max_numbers, self.largest, self.split, seed))


@attrs.define
class CountdownEnv(Env):
    """The environment of one episode of :class:`Countdown`."""

    puzzle: Puzzle
    done: bool = False

    @property
    def key(self) -> str:
        """Puzzle as text: equal for equal puzzles only."""
        return self.puzzle.key

    def initial_observation(self) -> str:
        return f"Numbers: {' '.join(map(str, self.puzzle.numbers))}\nTarget: {self.puzzle.target}"

    def step(self, action: str) -> Step:
        """Read an expression; text that is none earns nothing. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        try:
            answer = parse(action)
        except ValueError as error:
            return self._end(f"Not an expression: {error}.", 0.0)
        if sorted(answer.numbers) != sorted(self.puzzle.numbers):
            return self._end("The expression does not use exactly the given numbers.", 0.0)
        if answer.value == self.puzzle.target:
            return self._end("Correct.", 1.0)
        shown = "undefined" if answer.value is None else answer.value
        return self._end(f"The expression is {shown}, not {self.puzzle.target}.", 0.1)

    def _end(self, text: str, reward: float) -> Step:
        return Step(text, reward, done=True, success=reward == 1.0, metrics={ACCEPTED: float(reward > 0)})

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return the steps of the solution as the thought, and the solution. A mistake joins the numbers at random."""
        wrong = rng.random() < noise
        expression = _any_expression(self.puzzle.numbers, rng) if wrong else self.puzzle.solution
        return ", ".join(worked(expression)), (expression,)


def worked(expression: str) -> list[str]:
    """Work an expression out step by step: ``(1 + 2) * 3`` is ``1 + 2 = 3`` and ``3 * 3 = 9``.

    It ends before a step whose value is no whole number.
    """
    steps, left = [], expression
    while (step := _INNERMOST.search(left) or _LAST.fullmatch(left)) and (
        value := parse_signed(*step.groups())
    ) is not None:
        steps.append(f"{step[1]} {step[2]} {step[3]} = {value}")
        left = f"{left[: step.start()]}{value}{left[step.end() :]}"
    return steps


def parse_signed(a: str, operation: str, b: str) -> int | None:
    """Calculate with two whole numbers, which may be negative; ``None`` if the value is no whole number."""
    left, right = int(a), int(b)
    if operation == "/":
        return left // right if right and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def _any_expression(numbers: Sequence[int], rng: random.Random) -> str:
    """Join all numbers in a random order by random operations."""
    terms = [str(number) for number in rng.sample(numbers, len(numbers))]
    while len(terms) > 1:
        a, b = terms.pop(rng.randrange(len(terms))), terms.pop(rng.randrange(len(terms)))
        terms.append(f"({a} {rng.choice('+-*/')} {b})")
    return terms[0][1:-1]
