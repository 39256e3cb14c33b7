"""The training loop: the stages of a step in their order, for every backend, engine and combination of components."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from ....core.components import Rollouts, Scores, Verdict
from ....core.compose.experiment import Experiment
from ...rollout.episode import Episode
from ...rollout.rows import episode_metrics
from ..networks.dropout import has_dropout
from ..networks.shared_critic import HEAD
from ..processes.ranks import Ranks
from ..weights.engine_weights import EngineWeights
from . import stages
from .batch import Batch
from .borders import guarded
from .budget import SCORE_FACTOR
from .losses import CriticObjective, JointObjective, PolicyObjective
from .metrics import advantage_metrics, validation_metrics
from .mismatch import mismatch
from .own_pass import OwnPass
from .pairwise import Scorer
from .parts import Parts
from .pending import PendingUpdate

OF_TOKENS = frozenset({"logprobs", "entropies", "second_moments", "collision_probs"})
OF_POLICY = OF_TOKENS | {"minibatch"}
"""Needs for which the sampling policy is scored before the update."""


class Loop:
    """State of a run in progress: the parts and how many steps are done."""

    def __init__(self, experiment: Experiment, parts: Parts, ranks: Ranks, step: int = 0) -> None:
        self.experiment, self.parts, self.ranks, self.step = guarded(experiment), parts, ranks, step
        self.scorer = Scorer(
            parts.policy, experiment.trainer.score_batch, ranks, SCORE_FACTOR * experiment.trainer.token_budget
        )
        """What detectors score with."""
        self.on_rollouts: Callable[[Rollouts], None] = lambda rollouts: None
        """Is told the rollouts of each step as they are collected, on all ranks alike."""
        self.episodes: list[Episode] = []
        """Those of the last step, for transcripts."""
        self.stage = "start"
        """What is being done, or was last."""
        self._seconds: dict[str, float] = {}
        self._engine_weights = EngineWeights(parts.sampler.engine, parts.policy, parts.synced)

    def train_step(self) -> dict[str, float]:
        """One training step without validation; returns its metrics."""
        experiment, parts = self.experiment, self.parts
        self._seconds = {}
        # of dropout: every rank masks its own rows
        torch.manual_seed(stages.derived_seed(experiment.seed, "step", self.step, self.ranks.rank))
        with self._time("sync"):
            self._engine_weights.fresh()
        with self._time("rollout"):
            groups = parts.sampler.train(self.step)
            self.episodes = [episode for group in groups for episode in group.episodes]
            rollouts = stages.to_rollouts(self.episodes, experiment, self.step)
            greedy_P = parts.sampler.greedy_rewards(groups) if "greedy_rewards" in parts.needs else None
        self.on_rollouts(rollouts)
        with self._time("sync"):
            self._engine_weights.sleep()
        metrics = {f"train/{name}": value for name, value in episode_metrics(self.episodes).items()}
        metrics |= parts.sampler.batches.metrics()
        old: Scores | None = None
        if "entropies" in parts.needs:
            with self._time("score"):
                old = self._score(parts.policy, stages.to_batch(rollouts), **self._statistics)
                rollouts = attrs.evolve(rollouts, entropies=old.entropies)
        with self._time("filter"):
            keep_P, own = stages.select(experiment, rollouts)
            keep_E, of_episodes = stages.select_episodes(experiment, rollouts, keep_P)
            metrics |= own | of_episodes
        with self._time("detectors"):
            metrics |= parts.detectors.measure(rollouts, self.scorer)
        if bool(keep_E.any()):
            kept_rows = keep_E[rollouts.episodes]
            old = old and _rows(old, kept_rows)
            greedy_B = None if greedy_P is None else greedy_P[rollouts.groups][kept_rows]
            kept_ratio = float(keep_P.float().mean())
            metrics |= self._train(rollouts.select_episodes(keep_E), old, greedy_B, kept_ratio)
        self.step += 1
        return metrics

    def _train(
        self, rollouts: Rollouts, old: Scores | None, greedy_rewards_B: torch.Tensor | None, kept_ratio: float
    ) -> dict[str, float]:
        """Everything after the filter, on the groups that it kept."""
        experiment, parts, trainer = self.experiment, self.parts, self.experiment.trainer
        batch = stages.to_batch(rollouts)
        plan = stages.mini_batches(experiment, len(batch), self.step)
        in_reward = parts.reference is not None and experiment.kl.placement == "reward"
        shared, critic_alone = parts.critic is parts.policy, self._critic_alone()
        own_pass = len(plan) == 1 and not critic_alone and not has_dropout(parts.policy.module)
        with self._time("score"):
            # A single optimizer step's own pass is one of the sampling policy. A pass before it would buy nothing but
            # the values of a critic that shares the trunk.
            wanted = len(plan) > 1 or (self._distrusts_sampler and not own_pass) or bool(parts.needs & OF_POLICY)
            if old is None and (wanted or in_reward or shared):
                old = self._score(parts.policy, batch, **self._statistics)
        ref_logprobs, trained = None, rollouts
        if parts.reference is not None:
            with self._time("reference"):
                ref_logprobs = self._score(parts.reference, batch, entropy="none").logprobs
            if in_reward:
                assert old is not None
                kl_B_T = experiment.kl.estimator.component(old.logprobs, ref_logprobs)
                trained = stages.kl_in_reward(rollouts, kl_B_T, parts.controller.coef)
        values = None if old is None else old.values
        if parts.critic is not None and not shared:
            with self._time("values"):
                values = self._score(parts.critic, batch).values
        with self._time("advantage"):
            inputs = stages.credit_inputs(
                trained,
                values=values,
                greedy_rewards=greedy_rewards_B,
                step=self.step,
                steps=trainer.steps,
                **self._of(old),
            )
            result = stages.advantages(experiment, trained, inputs, kept_ratio)
        metrics = advantage_metrics(result, values, batch.mask)
        batch = attrs.evolve(
            batch,
            old_logprobs=None if old is None else old.logprobs,
            sampler_logprobs=rollouts.logprobs,
            ref_logprobs=ref_logprobs,
            advantages=result.advantages,
            returns=result.returns,
            old_values=values,
            groups=rollouts.groups,
            turns=rollouts.turns,
            old_entropies=None if old is None else old.entropies,
        )
        if parts.critic is not None and not shared:
            assert experiment.critic is not None
            with self._time("update_critic"):
                own = self._update(
                    parts.critic, batch, plan, CriticObjective(experiment.critic.clip_value), experiment.critic
                )
            metrics |= {f"critic/{name}": value for name, value in own.items()}
        pending: PendingUpdate | None = None
        if shared or not critic_alone:
            entropy_coef, own = (0.0, {}) if critic_alone else self._entropy_coef(old, batch.mask)
            metrics |= own
            objective = self._objective(shared, critic_alone, entropy_coef)
            entropy = "none" if critic_alone else "gradient" if entropy_coef else "value"
            if not critic_alone:
                with self._time("detectors"):
                    pending = PendingUpdate(
                        self.step + 1,
                        parts.policy,
                        trained,
                        batch,
                        plan,
                        objective,
                        experiment,
                        self._lr_scale(trainer),
                        self.ranks,
                        old,
                    )
                    metrics |= parts.detectors.before_update(pending)
            seen = OwnPass(objective) if old is None and own_pass else None
            # weight decay and momentum would move a policy that has no gradient
            only = {"only": HEAD} if critic_alone and experiment.critic and experiment.critic.detach else {}
            with self._time("update_actor"):
                own = self._update(parts.policy, batch, plan, seen or objective, trainer, entropy=entropy, **only)
            self._engine_weights.outdated()
            if pending is not None:
                with self._time("detectors"):
                    metrics |= parts.detectors.after_update(pending)
            metrics |= {name if "/" in name else f"actor/{name}": value for name, value in own.items()}
            if seen is not None:
                old = seen.scores(batch.mask, self.ranks)
        # entropy and KL of the sampling policy, where they were measured, rather than of the half-updated one
        metrics |= self._of_sampling_policy(old, rollouts, ref_logprobs)
        return metrics | {"train/optimizer_steps": float(len(plan)), "train/rows": float(len(batch))}

    def _entropy_coef(self, old: Scores | None, mask: torch.Tensor) -> tuple[float, dict[str, float]]:
        """The coefficient of this step's entropy bonus, once its controller has been told of the sampling policy."""
        settings, session = self.experiment.entropy, self.parts.entropy_controller
        if settings.controller.component.idle:
            return session.coef, {}
        entropy = math.nan
        if "entropies" in stages.needs_of(settings.controller):
            assert old is not None and old.entropies is not None
            entropy = stages.masked_mean(old.entropies, mask)
        session.update(entropy, self.step)
        return session.coef, {"actor/entropy_coef": session.coef}

    def _objective(self, shared: bool, critic_alone: bool, entropy_coef: float) -> Any:
        """What the policy's update minimises; of a critic on its trunk, too."""
        experiment, critic = self.experiment, self.experiment.critic
        in_loss = self.parts.reference is not None and experiment.kl.placement != "reward"
        policy = PolicyObjective(
            experiment.policy_loss.component,
            entropy_coef,
            experiment.kl.estimator.component if in_loss else None,
            self.parts.controller.coef,
            experiment.kl.weight,
            experiment.correction.component if self._corrects else None,
            self.step,
        )
        if not shared:
            return policy
        assert critic is not None
        return JointObjective(None if critic_alone else policy, CriticObjective(critic.clip_value), critic.coef)

    def _of_sampling_policy(
        self, scores: Scores | None, rollouts: Rollouts, ref_logprobs: torch.Tensor | None
    ) -> dict[str, float]:
        """What the policy was when it sampled: its entropy, how far it was from the sampler and from the reference.

        Without ``scores`` the sampler's word is taken for its log-probs. Steers the KL controller.
        """
        metrics: dict[str, float] = {}
        mask, sampler_logprobs, logprobs = rollouts.mask, rollouts.logprobs, rollouts.logprobs
        if scores is not None:
            assert scores.logprobs is not None and scores.entropies is not None
            logprobs = scores.logprobs
            metrics["actor/entropy"] = stages.masked_mean(scores.entropies, mask)
            metrics["rollout/logprob_gap"] = stages.masked_mean((logprobs - sampler_logprobs).abs(), mask)
            metrics |= mismatch(logprobs, sampler_logprobs, mask)
            if self._corrects:
                _, own = self.experiment.correction.component.correction(logprobs, sampler_logprobs, mask)
                metrics |= {f"correction/{name}": value for name, value in own.items()}
        if ref_logprobs is not None:
            controller = self.parts.controller
            kl_B_T = self.experiment.kl.estimator.component(logprobs, ref_logprobs)
            metrics |= {"actor/kl": stages.masked_mean(kl_B_T, mask), "actor/kl_coef": controller.coef}
            controller.update(stages.sequence_kl(kl_B_T, mask), len(rollouts.raw_rewards_E))
        return metrics

    def validate(self) -> dict[str, float]:
        """Success on the validation groups, with its standard error."""
        with self._time("sync"):
            self._engine_weights.fresh()
        with self._time("validation"):
            episodes = self.parts.sampler.validate(self.parts.validation_environment)
        return validation_metrics(episodes)

    def judge(self, metrics: Mapping[str, float]) -> list[Verdict]:
        """The verdicts of this step; every detector sees every step."""
        return self.parts.detectors.judge(self.step, metrics)

    def timings(self) -> dict[str, float]:
        """Seconds of each stage since the step began, on this rank."""
        return {f"timing_s/{name}": seconds for name, seconds in self._seconds.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside weights and optimizers; seeds of noise follow from the step."""
        parts = self.parts
        return {
            "step": self.step,
            "steps": self.experiment.trainer.steps,  # for readers: a run that is trained further gets others
            "samplers": parts.sampler.state_dict(),
            "kl_controller": parts.controller.state_dict(),
            "entropy_controller": parts.entropy_controller.state_dict(),
            "detectors": parts.detectors.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.parts.sampler.load_state_dict(state["samplers"])
        self.parts.controller.load_state_dict(state["kl_controller"])
        self.parts.entropy_controller.load_state_dict(state["entropy_controller"])
        self.parts.detectors.load_state_dict(state["detectors"])

    @property
    def _statistics(self) -> dict[str, Any]:
        """The options of a pass that computes what else somebody needs of the distributions."""
        options = {"second_moments": "second_moment", "collision_probs": "collision_prob"}
        return {option: "value" for need, option in options.items() if need in self.parts.needs}

    def _of(self, old: Scores | None) -> dict[str, torch.Tensor | None]:
        """What the advantage estimator needs of the sampling policy."""
        needed = stages.needs_of(self.experiment.advantage) & OF_TOKENS
        return {name: getattr(old, name) for name in needed}

    @property
    def _corrects(self) -> bool:
        return not self.experiment.correction.component.idle

    @property
    def _distrusts_sampler(self) -> bool:
        """Whether its log-probs must be held against the trainer's: corrected, or of a copy or older weights."""
        return self._corrects or self.parts.synced or self.parts.sampler.stale

    def _critic_alone(self) -> bool:
        critic = self.experiment.critic
        return self.parts.critic is not None and critic is not None and self.step < critic.policy_after

    def optimizer_steps(self) -> tuple[int, ...]:
        """How many optimizer steps each model has begun: while they stay the same, so do weights and moments."""
        models = (self.parts.policy, self.parts.critic)
        return tuple(model.steps_begun for model in models if model is not None)

    def _score(self, engine: Any, batch: Batch, **options: Any) -> Scores:
        trainer = self.experiment.trainer
        budget = SCORE_FACTOR * trainer.token_budget
        return stages.score(engine, batch, trainer.score_batch, self.ranks, budget=budget, **options)

    def _update(
        self, engine: Any, batch: Batch, plan: list[list[int]], objective: Any, optimizer: Any, **options: Any
    ) -> dict[str, float]:
        scale = self._lr_scale(optimizer)
        return stages.update(engine, batch, plan, objective, self.experiment, self.ranks, scale, **options)

    def _lr_scale(self, optimizer: Any) -> float:
        steps = self.experiment.trainer.steps
        return stages.lr_scale(optimizer.lr_schedule, optimizer.warmup_steps, self.step, steps)

    @contextmanager
    def _time(self, stage: str) -> Iterator[None]:
        started, self.stage = time.perf_counter(), stage
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - started


def _rows(scores: Scores, rows: torch.Tensor) -> Scores:
    pick = {f.name: v[rows] for f in attrs.fields(Scores) if (v := getattr(scores, f.name)) is not None}
    return Scores(**pick)
