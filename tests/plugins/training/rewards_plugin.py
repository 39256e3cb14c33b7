"""An environment that gives three named rewards, and the same one with their sum as its only reward."""

import ast

import attrs
from uncollapse.api import Answer, Env, Environment, Step, hookimpl
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer


@attrs.frozen
class Named(Environment):
    """Rewards depend on seed and member."""

    reward_names = ("right", "brief", "steps")
    instruction = "Say anything."
    actions = None

    def make(self, seed, member=0):
        return Player(seed, member)


class Player(Env):
    def __init__(self, seed, member):
        self.seed, self.member = seed, member

    def initial_observation(self):
        return f"task {self.seed}"

    def step(self, action):
        right, brief = (self.seed + self.member) % 2, (self.seed * self.member) % 3
        return Step("on", rewards={"right": right, "brief": brief / 4, "steps": -0.125}, success=bool(right))


@attrs.frozen
class Summed(Named):
    """Has one reward: right + 0.5 brief."""

    reward_names = ()

    def make(self, seed, member=0):
        return Sum(seed, member)


class Sum(Player):
    def step(self, action):
        step = super().step(action)
        return attrs.evolve(step, reward=step.rewards["right"] + 0.5 * step.rewards["brief"], rewards={})


@attrs.frozen
class Odd(Named):
    """Declares whatever ``names`` spells."""

    names: str = "()"
    weights: str = "{}"

    @property
    def reward_names(self):
        return ast.literal_eval(self.names)

    @property
    def reward_weights(self):
        return ast.literal_eval(self.weights)


class Talks(ThinkAnswer):
    """Every response is an answer, so that a random model plays on; those of odd length are invalid."""

    def parse(self, response, setting):
        return Answer("", ("on",), 1 + len(response) % 2)


@hookimpl
def register_dialogues(register):
    register("says_on", Talks, summary="any response is an answer")


@hookimpl
def register_environments(register):
    register("named_rewards", Named, summary="three named rewards")
    register("odd_rewards", Odd, summary="names that cannot be used")
    register("summed_rewards", Summed, summary="their sum")
