"""``replay`` trains on groups of older steps as well, the fresher ones before the others."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import validators

from ...core.components import BatchSampler, BatchSamplerSession, Group, GroupPool
from ...core.compose.experiment import Experiment

LEAST = 1e-6
"""Smallest base of a priority, in reward units, so that no group is out of reach."""


@attrs.frozen
class Replay(BatchSampler):
    """A part of each step are groups that were sampled before, drawn by their priority.

    Of the ``n = rollout.groups`` groups of a step ``floor(share * n)`` are old ones, as far as there are as many; the
    others are sampled. Old ones are drawn without replacement, with probabilities in proportion to
    ``(mean |reward| + 1e-6) * exp(-age / tau)``: the mean over the group's episodes of the size of the raw reward, and
    the age in training steps. At most ``capacity`` groups are remembered, those of the largest priorities; of a task
    that has come again only the newer group is. A group may be drawn in many steps.

    An old group carries the log-probs of its own policy, so the experiment needs a ``correction``, such as ``tis``, or
    a policy loss whose ratio is to the sampler (``dppo_tv``, ``dppo_kl``): otherwise its tokens would count as if this
    step's policy had sampled them. Checkpoints hold the groups.

    Metrics, of the last step: ``rollout/replayed_groups``, ``rollout/replayed_age`` (mean, in steps; 0 without any)
    and ``rollout/remembered_groups``.

    Source: Freshness-Aware PER (arXiv 2604.16918): the priority and its decay. It counts age in gradient steps and
    replays episodes, where here groups are the unit, since advantages compare their members. ``share``, ``tau`` and
    ``capacity`` are this project's own.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"correction": "tis"}

    share: float = attrs.field(default=0.5, validator=[validators.gt(0.0), validators.lt(1.0)])
    """Share of a step's groups that are old ones, in (0, 1)."""
    tau: float = attrs.field(default=10.0, validator=[validators.gt(0.0), validators.lt(math.inf)])
    """Age, in training steps, at which a priority has fallen to 1 / e."""
    capacity: int = attrs.field(default=64, validator=validators.ge(1))
    """Groups that are remembered."""
    seed: int = 0
    """Seed of the draws."""

    def start(self, groups: int, group_size: int) -> ReplaySession:
        return ReplaySession(self, groups, math.floor(self.share * groups + 1e-9))

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this sampler."""
        groups, problems = experiment.rollout.groups, []
        if self.share * groups < 1 - 1e-9:
            problems.append(f"a share of {self.share} of rollout.groups, {groups}, is less than one group")
        if experiment.correction.component.idle and not experiment.policy_loss.component.corrects:
            problems.append("correction: none would train old groups as if the policy of the step had sampled them")
        return problems

    def log_priority(self, group: Group, step: int) -> float:
        """Return the logarithm of a group's priority in training step ``step``."""
        size = sum(map(abs, group.rewards)) / len(group.rewards)
        return math.log(size + LEAST) - (step - group.step) / self.tau


@attrs.define
class ReplaySession(BatchSamplerSession):
    """The groups that are remembered, and what the last step was like."""

    rule: Replay
    groups: int
    old: int
    memory: list[Group] = attrs.field(factory=list)
    last: dict[str, float] = attrs.field(factory=dict)

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        new: list[Group] = []
        others = self.memory
        while (missing := self.groups - len(new) - min(self.old, len(others))) > 0:
            new += pool.sample(missing)
            # a task that has come again is there with its newer group alone, which may leave too few old ones
            seeds = {group.seed for group in new}
            others = [group for group in self.memory if group.seed not in seeds]
        replayed = self._draw(others, self.groups - len(new), step)
        remembered = others + new
        remembered.sort(key=lambda group: (-self.rule.log_priority(group, step), group.seed))
        self.memory = remembered[: self.rule.capacity]
        ages = [step - group.step for group in replayed]
        self.last = {
            "replayed_groups": len(replayed),
            "replayed_age": sum(ages) / len(ages) if ages else 0.0,
            "remembered_groups": len(self.memory),
        }
        return replayed + new

    def _draw(self, groups: list[Group], count: int, step: int) -> list[Group]:
        """Draw groups without replacement: those of the smallest exponential times with the priorities as rates."""
        dice = random.Random(f"step {step} of {self.rule.seed}")
        times = {
            group.seed: math.log(dice.expovariate(1.0) or LEAST) - self.rule.log_priority(group, step)
            for group in groups
        }
        return sorted(groups, key=lambda group: (times[group.seed], group.seed))[:count]

    def metrics(self) -> dict[str, float]:
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory = list(state["memory"])
