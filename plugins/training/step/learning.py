"""A training step learns from the episodes that its filters kept: it scores, credits and updates."""

from __future__ import annotations

import math
from typing import Any

import attrs
from torch import Tensor

from ....core.components import Advantages, Rollouts, Scores
from ....core.compose.experiment import Experiment
from ..networks.dropout import has_dropout
from ..networks.shared_critic import HEAD
from ..processes.ranks import Ranks
from ..weights.engine_weights import EngineWeights
from . import stages
from .batch import Batch
from .budget import SCORE_FACTOR
from .clock import StageClock
from .losses import CriticObjective, JointObjective, PolicyObjective
from .metrics import advantage_metrics
from .mismatch import mismatch
from .own_pass import OwnPass
from .parts import Parts
from .pending import PendingUpdate

OF_TOKENS = frozenset({"logprobs", "entropies", "second_moments", "collision_probs"})
"""Needs that are numbers of each token under the policy that sampled it."""
OF_POLICY = OF_TOKENS | {"minibatch"}
"""Needs for which the sampling policy is scored before the update."""


@attrs.frozen(eq=False)
class Learning:
    """One training step from the kept rows to the updated weights.

    The policy that sampled the rows is also the policy at the start of the update. Its log-probs and entropies come
    from a pass before the update where something needs them early, else from the update's own forward pass.
    """

    experiment: Experiment
    parts: Parts
    ranks: Ranks
    clock: StageClock
    engine_weights: EngineWeights
    step: int
    """The training step, from 0."""

    def score_policy(self, batch: Batch) -> Scores:
        """Return log-probs and entropies under the policy as it is, and further statistics that are needed."""
        options = {"second_moments": "second_moment", "collision_probs": "collision_prob"}
        wanted = {option: "value" for need, option in options.items() if need in self.parts.needs}
        return self._score(self.parts.policy, batch, **wanted)

    def run(
        self, rollouts: Rollouts, old: Scores | None, greedy_rewards_B: Tensor | None, kept_ratio: float
    ) -> dict[str, float]:
        """Train on the kept rows and return the metrics of everything after the filters.

        Args:
            rollouts: the kept rows.
            old: their scores under the policy that sampled, if they are known already.
            greedy_rewards_B: the reward of a greedy episode of each row's group, if it is needed.
            kept_ratio: the share of the groups that the rollout filter kept, for ``filter.loss_scaling``.
        """
        batch = stages.to_batch(rollouts)
        plan = stages.mini_batches(self.experiment, len(batch), self.step)
        own_pass = len(plan) == 1 and not self._critic_alone and not has_dropout(self.parts.policy.module)
        with self.clock.time("score"):
            if old is None and self._scores_first(len(plan), own_pass):
                old = self.score_policy(batch)
        ref_logprobs_B_T, charged = self._reference(batch, rollouts, old)
        values_B_T = self._values(batch, old)
        with self.clock.time("advantage"):
            credit = self._credit(charged, old, values_B_T, greedy_rewards_B, kept_ratio)
        metrics = advantage_metrics(credit, values_B_T, batch.mask)
        metrics |= {f"advantage/{name}": value for name, value in self.parts.advantage.metrics().items()}
        batch = attrs.evolve(
            batch,
            old_logprobs=None if old is None else old.logprobs,
            sampler_logprobs=rollouts.logprobs,
            ref_logprobs=ref_logprobs_B_T,
            advantages=credit.advantages,
            returns=credit.returns,
            old_values=values_B_T,
            groups=rollouts.groups,
            turns=rollouts.turns,
            old_entropies=None if old is None else old.entropies,
        )
        if self.parts.critic is not None and not self._shared:
            metrics |= self._update_critic(batch, plan)
        # a critic that trains alone leaves the policy as it is, unless it is a head on the policy's trunk
        if self._shared or not self._critic_alone:
            of_update, old = self._update_policy(charged, batch, plan, old, own_pass)
            metrics |= of_update
        # entropy and KL of the sampling policy, where they were measured, rather than of the half-updated one
        metrics |= self._of_sampling_policy(old, rollouts, ref_logprobs_B_T)
        return metrics | {"train/optimizer_steps": float(len(plan)), "train/rows": float(len(batch))}

    # --- scores and credit ---

    def _scores_first(self, optimizer_steps: int, own_pass: bool) -> bool:
        """Return whether the sampling policy must be scored before the update.

        If there is one optimizer step, its own forward pass is one of the sampling policy. A pass before it would give
        nothing new, except for the values of a critic on the same trunk.
        """
        return (
            optimizer_steps > 1
            or (self._distrusts_sampler and not own_pass)
            or bool(self.parts.needs & OF_POLICY)
            or self._kl_in_reward
            or self._shared
        )

    def _reference(self, batch: Batch, rollouts: Rollouts, old: Scores | None) -> tuple[Tensor | None, Rollouts]:
        """Return the reference's log-probs [B, T], and the rollouts after any KL in the reward has been charged."""
        if self.parts.reference is None:
            return None, rollouts
        with self.clock.time("reference"):
            ref_logprobs_B_T = self._score(self.parts.reference, batch, entropy="none").logprobs
        if not self._kl_in_reward:
            return ref_logprobs_B_T, rollouts
        assert old is not None
        kl_B_T = self.experiment.kl.estimator.component(old.logprobs, ref_logprobs_B_T)
        return ref_logprobs_B_T, stages.kl_in_reward(rollouts, kl_B_T, self.parts.controller.coef)

    def _values(self, batch: Batch, old: Scores | None) -> Tensor | None:
        """Return the critic's values [B, T], if there is a critic; a shared one gave them with the policy's scores."""
        if self.parts.critic is None or self._shared:
            return None if old is None else old.values
        with self.clock.time("values"):
            return self._score(self.parts.critic, batch).values

    def _credit(
        self,
        rollouts: Rollouts,
        old: Scores | None,
        values_B_T: Tensor | None,
        greedy_rewards_B: Tensor | None,
        kept_ratio: float,
    ) -> Advantages:
        """Return the advantages and returns of the rows."""
        needed = stages.needs_of(self.experiment.advantage) & OF_TOKENS
        inputs = stages.credit_inputs(
            rollouts,
            values=values_B_T,
            greedy_rewards=greedy_rewards_B,
            step=self.step,
            steps=self.experiment.trainer.steps,
            **{name: getattr(old, name) for name in needed},
        )
        return stages.advantages(self.experiment, self.parts.advantage, rollouts, inputs, kept_ratio)

    # --- updates ---

    def _update_critic(self, batch: Batch, plan: list[list[int]]) -> dict[str, float]:
        """Update a critic that is a model of its own."""
        settings = self.experiment.critic
        assert settings is not None
        with self.clock.time("update_critic"):
            metrics = self._update(self.parts.critic, batch, plan, CriticObjective(settings.clip_value), settings)
        return {f"critic/{name}": value for name, value in metrics.items()}

    def _update_policy(
        self, rollouts: Rollouts, batch: Batch, plan: list[list[int]], old: Scores | None, own_pass: bool
    ) -> tuple[dict[str, float], Scores | None]:
        """Update the policy, or only the critic's head on its trunk, while detectors look at it before and after.

        Returns:
            The metrics, and the scores of the sampling policy: ``old``, or those of the update's own pass.
        """
        entropy_coef = 0.0
        metrics: dict[str, float] = {}
        if not self._critic_alone:
            entropy_coef, metrics = self._entropy_coef(old, batch.mask)
        objective = self._objective(entropy_coef)
        pending: PendingUpdate | None = None
        if not self._critic_alone:
            with self.clock.time("detectors"):
                pending = self._pending(rollouts, batch, plan, objective, old)
                metrics |= self.parts.detectors.before_update(pending)
        kept_scores = OwnPass(objective) if old is None and own_pass else None
        options = self._update_options(entropy_coef)
        with self.clock.time("update_actor"):
            of_update = self._update(
                self.parts.policy, batch, plan, kept_scores or objective, self.experiment.trainer, **options
            )
        self.engine_weights.outdated()
        if pending is not None:
            with self.clock.time("detectors"):
                metrics |= self.parts.detectors.after_update(pending)
        metrics |= {name if "/" in name else f"actor/{name}": value for name, value in of_update.items()}
        return metrics, old if kept_scores is None else kept_scores.scores(batch.mask, self.ranks)

    def _entropy_coef(self, old: Scores | None, mask_B_T: Tensor) -> tuple[float, dict[str, float]]:
        """Return the coefficient of this step's entropy bonus, after its controller has seen the sampling policy."""
        settings, session = self.experiment.entropy, self.parts.entropy_controller
        if settings.controller.component.idle:
            return session.coef, {}
        entropy = math.nan
        if "entropies" in stages.needs_of(settings.controller):
            assert old is not None and old.entropies is not None
            entropy = stages.masked_mean(old.entropies, mask_B_T)
        session.update(entropy, self.step)
        return session.coef, {"actor/entropy_coef": session.coef}

    def _objective(self, entropy_coef: float) -> Any:
        """Return what the policy's update minimises, which includes the value loss of a critic on its trunk."""
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
        if not self._shared:
            return policy
        assert critic is not None
        return JointObjective(None if self._critic_alone else policy, CriticObjective(critic.clip_value), critic.coef)

    def _update_options(self, entropy_coef: float) -> dict[str, Any]:
        """Return what the update's forward pass computes beside log-probs, and which parameters it may change."""
        if not self._critic_alone:
            return {"entropy": "gradient" if entropy_coef else "value"}
        if self.experiment.critic is None or not self.experiment.critic.detach:
            return {"entropy": "none"}
        # weight decay and momentum would move a policy that has no gradient
        return {"entropy": "none", "only": HEAD}

    def _pending(
        self, rollouts: Rollouts, batch: Batch, plan: list[list[int]], objective: Any, old: Scores | None
    ) -> PendingUpdate:
        """Return the policy update that follows, as detectors see it."""
        return PendingUpdate(
            step=self.step + 1,
            policy=self.parts.policy,
            rollouts=rollouts,
            batch=batch,
            optimizer_steps=plan,
            objective=objective,
            experiment=self.experiment,
            lr_scale=self._lr_scale(self.experiment.trainer),
            ranks=self.ranks,
            scores=old,
        )

    def _of_sampling_policy(
        self, scores: Scores | None, rollouts: Rollouts, ref_logprobs_B_T: Tensor | None
    ) -> dict[str, float]:
        """Return the entropy of the policy that sampled, and its distance from the sampler and from the reference.

        Without ``scores``, the sampler's log-probs stand for the trainer's. The KL controller is updated as well.
        """
        metrics: dict[str, float] = {}
        mask_B_T = rollouts.mask
        logprobs_B_T = rollouts.logprobs
        if scores is not None:
            assert scores.logprobs is not None and scores.entropies is not None
            logprobs_B_T = scores.logprobs
            metrics["actor/entropy"] = stages.masked_mean(scores.entropies, mask_B_T)
            metrics["rollout/logprob_gap"] = stages.masked_mean((logprobs_B_T - rollouts.logprobs).abs(), mask_B_T)
            metrics |= mismatch(logprobs_B_T, rollouts.logprobs, mask_B_T)
            if self._corrects:
                correction = self.experiment.correction.component
                _, of_correction = correction.correction(logprobs_B_T, rollouts.logprobs, mask_B_T)
                metrics |= {f"correction/{name}": value for name, value in of_correction.items()}
        if ref_logprobs_B_T is not None:
            controller = self.parts.controller
            kl_B_T = self.experiment.kl.estimator.component(logprobs_B_T, ref_logprobs_B_T)
            metrics |= {"actor/kl": stages.masked_mean(kl_B_T, mask_B_T), "actor/kl_coef": controller.coef}
            controller.update(stages.sequence_kl(kl_B_T, mask_B_T), len(rollouts.raw_rewards_E))
        return metrics

    # --- what holds for the whole step ---

    @property
    def _shared(self) -> bool:
        """Whether the critic is a head on the policy's trunk."""
        return self.parts.critic is self.parts.policy

    @property
    def _critic_alone(self) -> bool:
        """Whether this step still trains the critic only (``critic.policy_after``)."""
        critic = self.experiment.critic
        return self.parts.critic is not None and critic is not None and self.step < critic.policy_after

    @property
    def _kl_in_reward(self) -> bool:
        return self.parts.reference is not None and self.experiment.kl.placement == "reward"

    @property
    def _corrects(self) -> bool:
        return not self.experiment.correction.component.idle

    @property
    def _distrusts_sampler(self) -> bool:
        """Whether the sampler's log-probs are compared with the trainer's.

        They are if they are corrected, or come from a copy of the weights or from older weights.
        """
        return self._corrects or self.parts.synced or self.parts.sampler.stale

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
