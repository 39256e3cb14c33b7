"""A task sampler that learns, and a batch sampler that samples twice in a step and keeps groups for the next one.

And a data set of which it is known which tasks teach, for samplers that ask.
"""

import random

import attrs
from uncollapse import hookimpl
from uncollapse.core.components import (
    Answer,
    BatchSampler,
    BatchSamplerSession,
    Env,
    Environment,
    Step,
    TaskSampler,
    TaskSamplerSession,
)
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer


@attrs.frozen
class Rated(TaskSampler):
    """Draws tasks at random near the best one so far, which may come again."""

    def start(self, first, environment, seed):
        return RatedSession(first, random.Random(seed))


class RatedSession(TaskSamplerSession):
    def __init__(self, base, random):
        self.base, self.random, self.rewards, self.drawn = base, random, {}, set()

    def begin_step(self, step):
        self.drawn = set()

    def draw(self, count):
        best = max(self.rewards, key=self.rewards.get, default=self.base)
        near = [task for task in range(best, best + 20) if task not in self.drawn]
        seeds = self.random.sample(near, count)
        self.drawn |= set(seeds)
        return seeds

    def learn(self, groups):
        self.rewards |= {group.seed: sum(group.rewards) / len(group.rewards) for group in groups}

    def state_dict(self):
        return {"random": self.random.getstate(), "rewards": list(self.rewards.items())}

    def load_state_dict(self, state):
        version, words, gauss = state["random"]
        self.random.setstate((version, tuple(words), gauss))
        self.rewards = dict(map(tuple, state["rewards"]))


@attrs.frozen
class Hoards(BatchSampler):
    """Samples ``rollout.groups`` groups and then ``more``; the oldest make the step, those left over a later one."""

    more: int = 1

    def start(self, groups, group_size):
        return HoardsSession(groups, self.more)


class HoardsSession(BatchSamplerSession):
    def __init__(self, groups, more):
        self.groups, self.more, self.left, self.last = groups, more, [], {}

    def collect(self, pool, step):
        found = {group.seed: group for group in self.left}
        for count in (self.groups, self.more):
            found = {group.seed: group for group in pool.sample(count)} | found
        by_age = sorted(found.values(), key=lambda group: (group.step, group.seed))
        chosen, self.left = by_age[: self.groups], by_age[self.groups :]
        old = sum(group.step < step for group in chosen)
        self.last = {"old_groups": old, "teaching_groups": sum(pool.teaches(chosen)), "left_groups": len(self.left)}
        return chosen[::-1]

    def metrics(self):
        return self.last

    def state_dict(self):
        return {"left": self.left}

    def load_state_dict(self, state):
        self.left = state["left"]


@attrs.frozen
class Coins(Environment):
    """Eight tasks, of which every third teaches: there the odd members earn 1, whatever they say."""

    instruction = "Wait."
    actions = ("Wait",)
    tasks = 8

    def make(self, seed, member=0):
        return Coin(seed % self.tasks, float(seed % self.tasks % 3 == 0 and member % 2))


@attrs.frozen
class Coin(Env):
    task: int
    reward: float

    def initial_observation(self):
        return str(self.task)

    def step(self, action):
        return Step("!", self.reward, True, self.reward > 0)


@attrs.frozen
class Waits(ThinkAnswer):
    """Takes anything for the answer to wait."""

    def parse(self, response, setting):
        return Answer("", ("Wait",), 1)


@hookimpl
def register_environments(register):
    register("coins", Coins)


@hookimpl
def register_dialogues(register):
    register("waits", Waits)


@hookimpl
def register_task_samplers(register):
    register("rated", Rated)


@hookimpl
def register_batch_samplers(register):
    register("hoards", Hoards)
