"""A small task that needs a tool twice: the result of the first calculation goes into the second."""

from __future__ import annotations

import random

import attrs
from attrs.validators import and_, ge, le

from ....core.components import Env, Environment, Step
from ..arithmetic import parse
from ..common import refuse_after_end
from ..metrics import ACCEPTED


@attrs.define
class ToolCalculatorEnv(Env):
    """An episode of :class:`ToolCalculator`."""

    task: str
    """The expression whose value is asked for."""
    answer: int
    """The value."""
    done: bool = False
    """Whether the question has been answered."""

    def initial_observation(self) -> str:
        return f"What is {self.task}?"

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
        return str(found.value)

    def step(self, action: str) -> Step:
        """Check an answer. Raises RunError after the end."""
        refuse_after_end(self.done)
        self.done = True
        given = action.strip().removesuffix(".").replace(",", "")
        right = given == str(self.answer)
        metrics = {ACCEPTED: float(given.removeprefix("-").isdecimal())}
        return Step("Correct." if right else "Wrong.", float(right), done=True, success=right, metrics=metrics)


@attrs.frozen
class ToolCalculator(Environment):
    """Calculate (a + b) * c with a calculator that takes two numbers at a time: a first task with a tool.

    The tool ``calculator`` has to be called twice, one call after the other. The answer is a number without a call, and
    ends the episode. The reward is 1 if it is right, otherwise 0. The metric ``share_of_played_actions_accepted`` is
    the share of answers that are numbers; calls are not among them. It needs the dialogue ``tool_calls``.
    """

    largest: int = attrs.field(default=999, validator=and_(ge(2), le(1_000_000)))
    """Largest number in a task."""

    instruction = (
        "Answer the question. Use the calculator, for one step after the other. At last reply with the number alone."
    )
    actions = None
    tools = (ToolCalculatorEnv.calculator,)
    concurrency = 1

    def make(self, seed: int, member: int = 0) -> ToolCalculatorEnv:
        """Make an episode with the question of ``seed``, the same for every member."""
        rng = random.Random(f"tool_calculator {self.largest} {seed}")
        a, b, c = (rng.randint(2, self.largest) for _ in range(3))
        return ToolCalculatorEnv(f"({a} + {b}) * {c}", (a + b) * c)
