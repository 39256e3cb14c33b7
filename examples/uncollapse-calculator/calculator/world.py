"""In this environment the policy may call a calculator before it answers."""

from __future__ import annotations

from random import Random

import attrs
from uncollapse.core.components import Env, Environment, Step

from .arithmetic import value_of


@attrs.frozen
class Calculator(Environment):
    """Ask for the value of a product and a sum. An action is a call of the calculator or the answer, as free text.

    ``calc: 17 * 23`` is answered with the value and costs ``price``; ``answer: 391`` ends the episode, with reward 1
    if it is right. Anything else is told what to write. Metric: ``tool_called`` (share of actions that are calls).
    """

    largest: int = attrs.field(default=30, validator=[attrs.validators.ge(2), attrs.validators.le(10**6)])
    """Largest number in a task."""
    price: float = attrs.field(default=0.02, validator=attrs.validators.ge(0))
    """Reward that a call costs."""

    instruction = "Find the value. Write 'calc: EXPRESSION' to use the calculator, 'answer: NUMBER' when you know it."
    actions = None
    concurrency = 1  # it only computes, so that threads would win nothing

    def make(self, seed: int, member: int = 0) -> Episode:
        """Make the task of a seed, so that all members of a group see the same one; there is no noise."""
        random = Random(seed)
        product = f"{random.randint(2, self.largest)} * {random.randint(2, self.largest)}"
        return Episode(f"{product} + {random.randint(2, self.largest)}", self.price)


class Episode(Env):
    """An episode is one task, and is used once."""

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
            observation = "Right." if right else "Wrong."
            return Step(observation, float(right), done=True, success=right, metrics={"tool_called": 0.0})
        return Step("Write 'calc: EXPRESSION' or 'answer: NUMBER'.", 0.0, metrics={"tool_called": 0.0})

    def _called(self, text: str) -> Step:
        try:
            observation = str(value_of(text))
        except ValueError as error:  # free text is never an error: the policy is told
            observation = f"The calculator says: {error}"
        return Step(observation, -self.price, metrics={"tool_called": 1.0})
