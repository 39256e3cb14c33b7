"""``dynamic`` samples on until enough groups can teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import validators

from ...core.components import BatchSampler, BatchSamplerSession, Group, GroupPool
from ...core.compose.batch_sizes import EPISODES
from ...core.compose.experiment import Experiment

BEFORE_SCORING = frozenset({"groups", "turns", "sampler_logprobs"})
"""Needs of a group metric that episodes fulfil before the policy has scored them."""


@attrs.frozen
class Dynamic(BatchSampler):
    """Sample rounds of groups until ``rollout.groups`` of them teach, or ``rounds`` rounds are spent.

    A group teaches where the rollout filter keeps it among the groups of its round; the others are discarded.
    ``filter.select: top_p(1, include_zero=false)``, with the metric ``reward_variance``, is DAPO's: groups whose
    rewards are not all equal. A filter that compares groups, such as ``top_p(0.9)``, chooses in each round and once
    more in the step.

    Groups that are left over teach in the next step, before any new ones, the oldest first; they are then of the
    policy of an older step, and a ``correction`` can weigh that. Where their task has come again, the newer group takes
    their place. A step of a spent budget has fewer groups; where none teaches, it has those of the last round, of which
    the filter keeps none.

    Metrics, of the last step: ``rollout/rounds``, ``rollout/discarded_episodes`` and ``rollout/kept_episodes`` (left
    over for the next step). All other metrics of rollouts, success and reward among them, are those of the groups that
    make the step, so they are no longer those of the tasks: see the validation. Where anything was sampled,
    ``rollout/sampled_success`` is the share of successes among all sampled episodes.

    Source: dynamic sampling of DAPO (arXiv 2503.14476), with the budget of verl's recipe. There a spent budget ends
    the run, and what is left over is lost.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"filter.select": "top_p(1, include_zero=false)"}

    rounds: int = attrs.field(default=10, validator=validators.ge(1))
    """Rounds of a step at most."""
    size: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Groups of a round; ``null`` is ``rollout.groups``."""

    def start(self, groups: int, group_size: int) -> DynamicSession:
        return DynamicSession(groups, self.rounds, groups if self.size is None else self.size)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this sampler."""
        select, metric = experiment.filter.select, experiment.filter.metric
        if (episodes := (self.size or 1) * experiment.rollout.group_size) > EPISODES:
            return [
                f"a round of size {self.size} is {episodes} episodes, which are held at once: at most {EPISODES} are"
            ]
        if select.component.keeps_all:
            return [
                f"filter.select: {select.described} keeps every group, so nothing would ever be discarded; "
                "top_p(1, include_zero=false) drops the groups whose rewards are all equal"
            ]
        if missing := sorted(metric.needs - BEFORE_SCORING):
            return [
                f"filter.metric: {metric.described} needs {', '.join(missing)}, which are not there when it asks which "
                "groups teach; choose a metric of rewards, such as reward_variance"
            ]
        return []


@attrs.define
class DynamicSession(BatchSamplerSession):
    """The groups that are left over, and what the last step was like."""

    groups: int
    rounds: int
    size: int
    left: list[Group] = attrs.field(factory=list)
    last: dict[str, float] = attrs.field(factory=dict)

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        teaching = {group.seed: group for group in self.left}
        new: list[Group] = []
        sampled: list[Group] = []
        discarded: list[Group] = []
        rounds = 0
        while len(teaching) < self.groups and rounds < self.rounds:
            new = pool.sample(self.size)
            for group, teaches in zip(new, pool.teaches(new), strict=True):
                if not teaches:
                    discarded.append(group)
                    continue
                if group.seed in teaching:
                    discarded.append(teaching.pop(group.seed))
                teaching[group.seed] = group
            sampled += new
            rounds += 1
        by_age = sorted(teaching.values(), key=lambda group: group.step)
        self.left = by_age[self.groups :]
        self.last = {
            "rounds": rounds,
            "discarded_episodes": sum(len(group.episodes) for group in discarded),
            "kept_episodes": sum(len(group.episodes) for group in self.left),
        }
        if successes := [success for group in sampled for success in group.successes]:
            self.last["sampled_success"] = sum(successes) / len(successes)
        return by_age[: self.groups] or new

    def metrics(self) -> dict[str, float]:
        return self.last

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.left = list(state["left"])
