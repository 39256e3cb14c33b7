"""An environment in which the policy may call a calculator before it answers."""

from __future__ import annotations

from random import Random

import attrs
from uncollapse.core.components import Env, Environment, Step

from .arithmetic import value_of


@attrs.frozen
class Calculator(Environment):
    """Asks for the value of a product and a sum. An action is a call of the calculator or the answer, as free text.

    ``calc: 17 * 23`` is answered with the value and costs ``price``; ``answer: 391`` ends the episode, with reward 1
    if it is right. Anything else is told what to write. Metric: ``tool_called`` (share of actions that are calls).
    """

    largest: int = attrs.field(default=30, validator=[attrs.validators.ge(2), attrs.validators.le(10**6)])
    """The largest number in a task."""
    price: float = attrs.field(default=0.02, validator=attrs.validators.ge(0))
    """Reward that a call costs."""

    instruction = "Find the value. Write 'calc: EXPRESSION' to use the calculator, 'answer: NUMBER' when you know it."
    actions = None

    def make(self, seed: int, member: int = 0) -> Episode:
        """The seed fixes the task, so all members of a group see the same one; there is no noise."""
        random = Random(seed)
        first, second, third = (random.randint(2, self.largest) for _ in range(3))
        return Episode(f"{first} * {second} + {third}", self.price)


class Episode(Env):
    """One task; used once."""

    def __init__(self, task: str, price: float) -> None:
        self.task, self.price = task, price

    def initial_observation(self) -> str:
        return f"What is {self.task}?"

    def step(self, action: str) -> Step:
        word, _, text = action.strip().partition(":")
        if word.lower() == "calc":
            return self._called(text)
        if word.lower() == "answer":
            right = text.strip() == str(value_of(self.task))
            said = "Right." if right else "Wrong."
            return Step(said, float(right), done=True, success=right, metrics={"tool_called": 0.0})
        return Step("Write 'calc: EXPRESSION' or 'answer: NUMBER'.", 0.0, metrics={"tool_called": 0.0})

    def _called(self, text: str) -> Step:
        try:
            said = str(value_of(text))
        except ValueError as error:  # free text is never an error: the policy is told
            said = f"The calculator says: {error}"
        return Step(said, -self.price, metrics={"tool_called": 1.0})
