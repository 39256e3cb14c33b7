"""Tasks are drawn, played on all ranks, and collected as the groups of a training step.

Each rank plays a share of the groups and is given all episodes, so that every rank draws and collects the same.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ....core.components import Group, GroupPool
from ....core.compose.blame import wrong
from ....core.compose.experiment import Experiment
from ....core.errors import RunError
from ...rollout.borders import CheckedEnvironment
from ...rollout.collect import collect
from ...rollout.dynamic import BEFORE_SCORING
from ...rollout.episode import Episode
from ...rollout.lost import LostGroup, require_few_lost
from ...rollout.rows import in_order
from ...rollout.sampler_borders import (
    CheckedBatchSampler,
    CheckedBatchSamplerSession,
    CheckedTaskSampler,
    CheckedTaskSamplerSession,
)
from ...rollout.sampler_state import group_of
from ..processes.ranks import Ranks
from . import stages
from .borders import guarded


class Sampler:
    """What samples the groups of a step. It holds the sessions of the task sampler and of the batch sampler."""

    def __init__(self, experiment: Experiment, engine: Any, template: Any, ranks: Ranks) -> None:
        self.experiment = experiment
        self.engine = engine
        self.template = template
        self.ranks = ranks
        self.environment = CheckedEnvironment(experiment.environment, weights=experiment.reward.weights)
        self.stale = False
        """Whether the policy of an earlier step has sampled some of the last step's groups."""
        self.lost: list[LostGroup] = []
        """The groups that the environment has lost in the last step."""

    # both are started on first use: a command that only validates starts neither

    @cached_property
    def tasks(self) -> CheckedTaskSamplerSession:
        """The session of the task sampler."""
        rollout = self.experiment.rollout
        return CheckedTaskSampler(rollout.tasks).start(rollout.seed, self.environment, self.experiment.seed)

    @cached_property
    def batches(self) -> CheckedBatchSamplerSession:
        """The session of the batch sampler."""
        rollout = self.experiment.rollout
        return CheckedBatchSampler(rollout.batch).start(rollout.groups, rollout.group_size)

    def train(self, step: int) -> list[Group]:
        """Sample the groups of training step ``step`` (from 0), ordered by their seeds."""
        self.lost = []
        self.tasks.begin_step(step)
        groups = self.batches.collect(StepPool(self, step), step)
        self.stale = any(group.step < step for group in groups)
        return groups

    def greedy_rewards(self, groups: Sequence[Group]) -> Tensor:
        """Play a greedy episode of each group's task and return its raw reward, [P], ordered by seeds; NaN if lost."""
        seeds = sorted(group.seed for group in groups)
        rewards = {each.seed: each.reward for each in self.play(self.environment, seeds, 1, 0, 0.0)}
        return torch.tensor([rewards.get(seed, math.nan) for seed in seeds])

    def validate(self, environment: Any) -> list[Episode]:
        """Play the validation groups: the same tasks with the same noise at every validation."""
        settings = self.experiment.validation
        return self.play(
            environment,
            range(settings.seed, settings.seed + settings.groups),
            settings.group_size,
            stages.derived_seed(self.experiment.seed, "validation"),
            settings.temperature,
        )

    def play(self, environment: Any, seeds: Sequence[int], size: int, seed: int, temperature: float) -> list[Episode]:
        """Play ``size`` episodes of each environment seed and return them in order; ``seed`` is that of their noise.

        Groups that the environment loses have no episodes.

        Raises:
            RunError: it loses more groups than ``rollout.max_lost`` allows.
        """

        def play() -> tuple[list[Episode], list[LostGroup]]:
            lost: list[LostGroup] = []
            episodes = collect(
                environment,
                self.experiment.rollout,
                self.engine,
                self.template,
                seeds=seeds[self.ranks.rank :: self.ranks.size],
                group_size=size,
                seed=seed,
                temperature=temperature,
                lost=lost,
            )
            return episodes, lost

        of_ranks = self.ranks.gather_work(play)
        lost = sorted((group for _, of_rank in of_ranks for group in of_rank), key=lambda group: group.seed)
        self.lost += lost
        warning = require_few_lost(lost, len(seeds), self.experiment.rollout.max_lost)
        if warning and self.ranks.first:
            sys.stderr.write(f"{warning}\n")
        return in_order(episode for of_rank, _ in of_ranks for episode in of_rank)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of task sampler and batch sampler."""
        return {"tasks": self.tasks.state_dict(), "batch": self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.tasks.load_state_dict(state["tasks"])
        self.batches.load_state_dict(state["batch"])


class StepPool(GroupPool):
    """The pool of one training step (from 0)."""

    def __init__(self, sampler: Sampler, step: int) -> None:
        self.sampler, self.step = sampler, step
        self.rounds = 0
        """The number of rounds of sampling so far; each round has noise of its own."""

    def sample(self, groups: int) -> list[Group]:
        """Draw and play ``groups`` tasks; see :meth:`.GroupPool.sample`."""
        sampler, rollout = self.sampler, self.sampler.experiment.rollout
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 0:
            raise wrong(rollout.batch, "collect", f"asked the pool for {groups!r} groups")
        if not groups:
            return []
        seeds = sampler.tasks.draw(groups)
        self._agree(seeds)
        # the first round has no number, so that runs with one round a step keep the noise they always had
        noise = ("train", self.step, self.rounds) if self.rounds else ("train", self.step)
        self.rounds += 1
        episodes = sampler.play(
            sampler.environment,
            seeds,
            rollout.group_size,
            stages.derived_seed(sampler.experiment.seed, *noise),
            rollout.temperature,
        )
        played: dict[int, Group] = {}
        for seed, members in groupby(episodes, lambda episode: episode.seed):
            played[seed] = group_of(members, self.step)
        sampler.tasks.learn([played[seed] for seed in seeds if seed in played])
        return [played[seed] for seed in sorted(played)]

    def _agree(self, seeds: list[int]) -> None:
        """Check that all ranks have drawn the same seeds, of which each plays a share. Raises RunError if not."""
        drawn_here = (self.step, self.rounds, seeds)
        if any(drawn != drawn_here for drawn in self.sampler.ranks.gather(drawn_here)):
            what = "gave other seeds on another rank: draw by a generator made from the seed that start was given"
            raise wrong(self.sampler.experiment.rollout.tasks, "draw", what)

    def teaches(self, groups: Sequence[Group]) -> list[bool]:
        """Return which groups the rollout filter would keep; see :meth:`.GroupPool.teaches`."""
        experiment = guarded(self.sampler.experiment)
        metric, batch = experiment.filter.metric, experiment.rollout.batch
        if experiment.filter.select.component.keeps_all:
            return [True] * len(groups)
        if missing := sorted(stages.needs_of(metric) - BEFORE_SCORING):
            raise RunError(
                f"{batch.described} asks which groups teach, and {metric.described} tells that from "
                f"{', '.join(missing)}, which are not there before the policy scores them",
                "filter.metric",
                "choose a metric of rewards, such as reward_variance, or rollout.batch: fixed",
            )
        if not groups:
            return []
        episodes = [episode for group in groups for episode in group.episodes]
        keep_P, _ = stages.select(experiment, stages.to_rollouts(episodes, experiment, self.step))
        kept = dict(zip(sorted(group.seed for group in groups), keep_P.tolist(), strict=True))
        return [kept[group.seed] for group in groups]
