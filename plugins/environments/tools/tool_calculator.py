"""A small task that needs a tool twice: the result of the first calculation goes into the second."""

from __future__ import annotations

import json
import random
from typing import get_args

import attrs
from attrs.validators import and_, ge, in_, le

from ....core.components import Call, Env, Environment, Step
from ..arithmetic import parse
from ..common import Split, draw_task, refuse_after_end
from ..metrics import ACCEPTED


@attrs.frozen
class Question:
    """A question asks for (a + b) * c."""

    a: int
    b: int
    c: int

    @property
    def task(self) -> str:
        """The expression whose value is asked for."""
        return f"({self.a} + {self.b}) * {self.c}"

    @property
    def steps(self) -> tuple[str, str]:
        """The two calculations that lead to the value, one after the other."""
        return f"{self.a} + {self.b}", f"{self.a + self.b} * {self.c}"

    @property
    def values(self) -> tuple[int, int]:
        """What the two calculations give; the last one is the answer."""
        return self.a + self.b, (self.a + self.b) * self.c


@attrs.define
class ToolCalculatorEnv(Env):
    """An episode of :class:`ToolCalculator`."""

    question: Question
    """The question."""
    known: int = 0
    """The number of right calculations so far, 0 to 2."""
    done: bool = False
    """Whether the question has been answered."""

    @property
    def key(self) -> str:
        """The task as text: equal for equal tasks only."""
        return self.question.task

    def initial_observation(self) -> str:
        return f"What is {self.question.task}?"

    def calculator(self, expression: str) -> str:
        """Calculate one sum, difference, product or quotient of two whole numbers.

        Args:
            expression: The two numbers with +, -, * or / between them, such as 12 * 7.
        """
        refuse_after_end(self.done)
        found = parse(expression)
        if len(found.numbers) != 2:
            raise ValueError(f"it calculates with two numbers, not {len(found.numbers)}")
        if found.value is None:
            raise ValueError("nothing can be divided by zero")
        if found.value in self.question.values:
            self.known = max(self.known, 1 + self.question.values.index(int(found.value)))
        return str(found.value)

    def step(self, action: str) -> Step:
        """Check an answer. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        given = action.strip().removesuffix(".").replace(",", "")
        right = given == str(self.question.values[-1])
        metrics = {ACCEPTED: float(given.removeprefix("-").isdecimal())}
        return Step("Correct." if right else "Wrong.", float(right), done=True, success=right, metrics=metrics)

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return the sum, then the product, then the answer. A mistake guesses, or calls for what cannot be calculated.

        A guess has as many digits as the answer. A call asks for the whole expression, for the first two numbers in
        another operation, or names its argument in another way.
        """
        if rng.random() < noise:
            return "", (self._mistake(rng),)
        if self.known == len(self.question.steps):
            return "", (str(self.question.values[-1]),)
        return "", (_call(expression=self.question.steps[self.known]),)

    def _mistake(self, rng: random.Random) -> str:
        digits = len(str(self.question.values[-1]))
        guess = str(rng.randrange(10 ** (digits - 1), 10**digits))
        step = self.question.steps[min(self.known, 1)]
        calls = (_call(expression=self.question.task), _call(expression=step.translate(_OTHER)), _call(sum=step))
        return rng.choice((guess, guess, *calls))


_OTHER = str.maketrans("+*", "*-")
"""Operations that give another value."""


def _call(**arguments: str) -> str:
    return Call("calculator", json.dumps(arguments)).text


@attrs.frozen
class ToolCalculator(Environment):
    """Calculate (a + b) * c with a calculator that takes two numbers at a time: a first task with a tool.

    The tool ``calculator`` has to be called twice, one call after the other. The answer is a number without a call, and
    ends the episode. The reward is 1 if it is right, otherwise 0. The metric ``share_of_played_actions_accepted`` is
    the share of answers that are numbers; calls are not among them. It needs the dialogue ``tool_calls``. It
    demonstrates: a small model can be cloned from its scripted calls (``cloned_qwen2``).
    """

    largest: int = attrs.field(default=999, validator=and_(ge(2), le(1_000_000)))
    """Largest number in a task."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""

    instruction = (
        "Answer the question. Use the calculator, for one step after the other. At last reply with the number alone."
    )
    actions = None
    tools = (ToolCalculatorEnv.calculator,)
    concurrency = 1
    least_reward = 0.0

    @property
    def demonstrated(self) -> ToolCalculator:  # type: ignore[override]
        """The environment itself."""
        return self

    def make(self, seed: int, member: int = 0) -> ToolCalculatorEnv:
        """Make an episode with the question of ``seed``, the same for every member."""
        rng = random.Random(f"tool_calculator {self.largest} {seed}")
        question = draw_task(
            lambda: Question(*(rng.randint(2, self.largest) for _ in range(3))),
            lambda drawn: drawn.task,
            self.split,
            f"tool_calculator with numbers up to {self.largest}",
            "raise largest",
        )
        return ToolCalculatorEnv(question)
