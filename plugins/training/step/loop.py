"""The training loop: the stages of a step in their order, for every backend, engine and combination of components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts, Scores, Verdict
from ....core.compose.experiment import Experiment
from ...rollout.episode import Episode
from ...rollout.lost import LostGroup
from ...rollout.named_rewards import reward_metrics
from ...rollout.rows import episode_metrics
from ..processes.ranks import Ranks
from ..weights.engine_weights import EngineWeights
from . import stages
from .borders import guarded
from .budget import SCORE_FACTOR
from .clock import StageClock
from .learning import Learning
from .metrics import validation_metrics
from .pairwise import Scorer
from .parts import Parts


class Loop:
    """The state of a run in progress: what it has started, and how many steps are done."""

    def __init__(self, experiment: Experiment, parts: Parts, ranks: Ranks, step: int = 0) -> None:
        self.experiment = guarded(experiment)
        self.parts = parts
        self.ranks = ranks
        self.step = step
        """The number of steps that are done."""
        trainer = experiment.trainer
        self.scorer = Scorer(parts.policy, trainer.score_batch, ranks, SCORE_FACTOR * trainer.token_budget)
        """What detectors score with."""
        self.on_rollouts: Callable[[Rollouts], None] = lambda rollouts: None
        """A function that is called with the rollouts of each step once they are collected, on all ranks."""
        self.episodes: list[Episode] = []
        """The episodes of the last step, for transcripts."""
        self.lost: list[LostGroup] = []
        """The groups that the environment has lost in the last step, for transcripts."""
        self._clock = StageClock()
        self._engine_weights = EngineWeights(parts.sampler.engine, parts.policy, parts.synced)

    @property
    def stage(self) -> str:
        """The name of the stage that runs, or ran last."""
        return self._clock.stage

    def train_step(self) -> dict[str, float]:
        """Run one training step without validation, and return its metrics."""
        experiment, parts = self.experiment, self.parts
        self._clock.restart()
        # for dropout: every rank masks its own rows
        torch.manual_seed(stages.derived_seed(experiment.seed, "step", self.step, self.ranks.rank))
        learning = Learning(experiment, parts, self.ranks, self._clock, self._engine_weights, self.step)
        rollouts, greedy_rewards_P = self._sample()
        metrics = {f"train/{name}": value for name, value in episode_metrics(self.episodes).items()}
        metrics |= reward_metrics(self.episodes)
        metrics |= parts.sampler.batches.metrics()
        self.lost = list(parts.sampler.lost)
        if self.lost:
            metrics["rollout/groups_lost"] = float(len(self.lost))
        # metrics of groups and detectors may read entropies, so that all rows are scored before the filter
        old: Scores | None = None
        if "entropies" in parts.needs:
            with self._clock.time("score"):
                old = learning.score_policy(stages.to_batch(rollouts))
                rollouts = attrs.evolve(rollouts, entropies=old.entropies)
        with self._clock.time("filter"):
            keep_P, of_groups = stages.select(experiment, rollouts)
            keep_E, of_episodes = stages.select_episodes(experiment, rollouts, keep_P)
            metrics |= of_groups | of_episodes
        # detectors see all groups, whatever the filters keep
        with self._clock.time("detectors"):
            metrics |= parts.detectors.measure(rollouts, self.scorer)
        if bool(keep_E.any()):
            keep_B = keep_E[rollouts.episodes]
            greedy_rewards_B = None if greedy_rewards_P is None else greedy_rewards_P[rollouts.groups][keep_B]
            metrics |= learning.run(
                rollouts.select_episodes(keep_E),
                old and _select_rows(old, keep_B),
                greedy_rewards_B,
                kept_ratio=float(keep_P.float().mean()),
            )
        metrics |= self._refresh_reference()
        self.step += 1
        return metrics

    def _sample(self) -> tuple[Rollouts, Tensor | None]:
        """Sample the episodes of this step; return their rows, and greedy rewards [P] if they are needed."""
        sampler = self.parts.sampler
        with self._clock.time("sync"):
            self._engine_weights.fresh()
        with self._clock.time("rollout"):
            groups = sampler.train(self.step)
            greedy_rewards_P: Tensor | None = None
            if "greedy_rewards" in self.parts.needs:
                rewards_P = sampler.greedy_rewards(groups)
                played_P = ~rewards_P.isnan()
                groups = [group for group, played in zip(groups, played_P.tolist(), strict=True) if played]
                greedy_rewards_P = rewards_P[played_P]
            self.episodes = [episode for group in groups for episode in group.episodes]
            rollouts = stages.to_rollouts(self.episodes, self.experiment, self.step)
        self.on_rollouts(rollouts)
        with self._clock.time("sync"):
            self._engine_weights.sleep()
        return rollouts, greedy_rewards_P

    def _refresh_reference(self) -> dict[str, float]:
        """Move the reference towards the policy after a step in which the KL controller says so."""
        reference = self.parts.reference
        if reference is None or (share := self.parts.controller.refresh(self.step + 1)) is None:
            return {}
        with self._clock.time("refresh"):
            reference.move(self.parts.policy, share)
        return {"reference/refreshed": share}

    def validate(self) -> dict[str, float]:
        """Return the success on the validation groups, with its standard error."""
        with self._clock.time("sync"):
            self._engine_weights.fresh()
        with self._clock.time("validation"):
            episodes = self.parts.sampler.validate(self.parts.validation_environment)
        return validation_metrics(episodes)

    def judge(self, metrics: Mapping[str, float]) -> list[Verdict]:
        """Return the verdicts on this step; every detector sees every step."""
        return self.parts.detectors.judge(self.step, metrics)

    def timings(self) -> dict[str, float]:
        """Return the seconds of each stage since the step began, on this rank."""
        return self._clock.metrics()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs beside weights and optimizers; seeds of noise follow from the step."""
        parts = self.parts
        return {
            "step": self.step,
            "steps": self.experiment.trainer.steps,  # for readers: a run that is trained further gets others
            "samplers": parts.sampler.state_dict(),
            "advantage": parts.advantage.state_dict(),
            "kl_controller": parts.controller.state_dict(),
            "entropy_controller": parts.entropy_controller.state_dict(),
            "detectors": parts.detectors.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        self.step = state["step"]
        self.parts.sampler.load_state_dict(state["samplers"])
        if "advantage" in state:  # earlier versions knew only estimators without state
            self.parts.advantage.load_state_dict(state["advantage"])
        self.parts.controller.load_state_dict(state["kl_controller"])
        self.parts.entropy_controller.load_state_dict(state["entropy_controller"])
        self.parts.detectors.load_state_dict(state["detectors"])

    def optimizer_steps(self) -> tuple[int, ...]:
        """Return how many optimizer steps each model has begun, and how many moves the reference.

        While they stay the same, so do weights and moments.
        """
        parts = self.parts
        steps = tuple(model.steps_begun for model in (parts.policy, parts.critic) if model is not None)
        return steps if parts.reference is None else (*steps, parts.reference.moves_begun)


def _select_rows(scores: Scores, keep_B: Tensor) -> Scores:
    fields = attrs.asdict(scores, recurse=False)
    return Scores(**{name: value[keep_B] for name, value in fields.items() if value is not None})
