"""``success_band`` lets tasks come again that are neither too hard nor too easy."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from attrs import validators

from ...core.components import Environment, Group, TaskSampler, TaskSamplerSession
from ...core.compose.experiment import Experiment
from .shuffled import Epochs

SHARE = [validators.ge(0.0), validators.le(1.0)]


@attrs.frozen
class SuccessBand(TaskSampler):
    """Tasks whose success rate lies in a band come more often than the others.

    The success rate of a task is the share of successes in its group when it was last played. Each group of a step is,
    with probability ``share``, of a task that is then in ``[low, high]`` and not yet in the step, any of them with the
    same probability; where there is none, and otherwise, it is of the next task as ``shuffled`` has them. So every task
    goes on to be played, and a task whose rate leaves the band stays away until its turn comes.

    A task that comes again has the environment seed that it had. What is drawn depends on the experiment's ``seed``,
    the step, and what was learnt. At most ``memory`` tasks of the band are remembered, the last ones.

    Source: the idea is that of online difficulty filtering (Bae et al. 2025, arXiv 2504.03380), which leaves tasks
    outside a band out of a step; here they are played, only less often.
    """

    low: float = attrs.field(default=0.2, validator=SHARE)
    """Smallest success rate of the band."""
    high: float = attrs.field(default=0.8, validator=SHARE)
    """Largest success rate of the band."""
    share: float = attrs.field(default=0.5, validator=[validators.gt(0), validators.le(1)])
    """Probability that a group is of a task of the band, in (0, 1]."""
    memory: int = attrs.field(default=10_000, validator=validators.ge(1))
    """Tasks of the band that are remembered."""

    def __attrs_post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"high must be at least low, {self.low}, got {self.high}")

    def start(self, first: int, environment: Environment, seed: int) -> SuccessBandSession:
        return SuccessBandSession(self, Epochs(first, environment.tasks, seed), seed)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this sampler."""
        size = experiment.rollout.group_size
        if any(self.low <= successes / size <= self.high for successes in range(size + 1)):
            return []
        return [f"no group of rollout.group_size, {size}, can have a success rate from {self.low} to {self.high}"]


@attrs.define
class SuccessBandSession(TaskSamplerSession):
    """How many new groups have been drawn, and the tasks of the band."""

    rule: SuccessBand
    epochs: Epochs
    seed: int
    drawn: int = 0
    band: dict[int, int] = attrs.field(factory=dict)
    """The environment seed of each task of the band, the one that was played last at the end."""
    _random: random.Random = attrs.field(factory=random.Random)
    _taken: set[int] = attrs.field(factory=set)

    def begin_step(self, step: int) -> None:
        self._taken = set()
        self._random = random.Random(f"step {step} of {self.seed}")

    def draw(self, count: int) -> list[int]:
        return [self._next() for _ in range(count)]

    def _next(self) -> int:
        again = self._random.random() < self.rule.share
        choice = [seed for seed in self.band.values() if seed not in self._taken] if again else []
        if choice:
            seed = self._random.choice(choice)
        else:
            seed = self.epochs.at(self.drawn)
            self.drawn += 1
        self._taken.add(seed)
        return seed

    def learn(self, groups: Sequence[Group]) -> None:
        for group in groups:
            task = self._task(group.seed)
            self.band.pop(task, None)
            if self.rule.low <= sum(group.successes) / len(group.successes) <= self.rule.high:
                self.band[task] = group.seed
        for task in list(self.band)[: -self.rule.memory]:
            del self.band[task]

    def _task(self, seed: int) -> int:
        return seed if self.epochs.tasks is None else seed % self.epochs.tasks

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn, "band": list(self.band.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = int(state["drawn"])
        self.band = {self._task(seed): seed for seed in state["band"]}
