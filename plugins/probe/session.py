"""The probes of one checkpoint share its next step, and make measurements of that step."""

from __future__ import annotations

from typing import Any

from ..training.step.losses import PolicyObjective
from .credit import credit, estimator, pay_kl, reference_logprobs
from .estimation.clock import Clock
from .estimation.directions import AdamW, PreconditionedGradient, UpdateRule
from .estimation.measurement import Measurement
from .estimation.passes import trained
from .estimation.step import Step
from .estimation.update import Update, make_update
from .next_step import left_out, objective, what_was_learnt
from .sampler import CLOCK, Sampler
from .sampling.samples import Sample


class Session(Sampler):
    """A session holds what all probes of one checkpoint share; see :class:`.sampler.Sampler` for its arguments."""

    def step(self, sample: Sample, clock: Clock = CLOCK) -> Step:
        """Return the step that this sample of U makes; its gradient and direction are computed here."""
        with clock("phase2_sum_Y"):
            update = self.update(sample)
            step = Step(self.policy, update, self.rule(), ranks=self.ranks, **self.config.memory_config.sizes)
            step.direction  # noqa: B018 - so that its time is counted here
        return step

    def update(self, sample: Sample) -> Update:
        """Return the rows of this sample of U with all that the loss of the step needs."""
        gradient = self.config.policy_gradient
        # the configuration in use has all of these: see used()
        assert gradient.advantage is not None and gradient.policy_loss is not None
        kl = gradient.kl.component if gradient.kl is not None else None
        in_loss = gradient.kl_placement == "loss"
        rollouts = sample.rollouts
        ref_logprobs = reference_logprobs(self, rollouts) if kl is not None else None
        if ref_logprobs is not None and not in_loss:
            rollouts = pay_kl(self, rollouts, ref_logprobs)
        loss = PolicyObjective(
            gradient.policy_loss.component,
            gradient.entropy_coeff or 0.0,
            kl if in_loss else None,
            gradient.kl_coef or 0.0,
            gradient.kl_weight or "none",
        )
        return make_update(
            rollouts,
            advantage=estimator(self),
            objective=loss,
            weighting=self.weighting,
            max_length=self.rollout.max_context,
            ref_logprobs=ref_logprobs,
            reweight=bool(gradient.soft_advantage_reweight),
            without_task=bool(gradient.zero_task_advantage),
            **credit(self, sample),
        )

    @property
    def weighting(self) -> str:
        """Weights of the tokens of U; see :func:`.estimation.update.weights`."""
        weighting = self.config.probe_rework.weighting_mode
        assert weighting is not None
        return weighting

    def predicted_step(self) -> dict[str, Any]:
        """Describe the step that is predicted, as plain data: optimizer, loss, who says so, and what it leaves out."""
        config, run = self.config, self.run
        norm = config.policy_gradient.max_grad_norm
        clipped = f"gradient clipped to the norm {norm:g}" if norm else "gradient not clipped"
        if run is not None:
            exceptions = f", but for {', '.join(self.chosen)} of the configuration" if self.chosen else ""
            source = f"the run {run.directory.name} after step {run.step}{exceptions}"
        else:
            exceptions = f"{', '.join(self.chosen)} of the configuration, else " if self.chosen else ""
            default = f"{exceptions}Dr. GRPO without clipping, KL and entropy term"
            source = f"no run of this package wrote the checkpoint: {default}"
        return {
            "optimizer": config.direction,
            "learning_rate": f"{self.eta:g} ({self.rate_by})",
            "clipping": clipped if config.direction == "adamw" else "not clipped",
            "loss": objective(config),
            "said_by": source,
            "left_out": [
                *(left_out(config, run) if run is not None else ()),
                *what_was_learnt(config, run),
                *self._several_rates(),
            ],
        }

    def _several_rates(self) -> list[str]:
        rates = self.adam.rates
        shown = ", ".join(f"{rate:g}" for rate in rates)
        return [f"parameter groups have the learning rates {shown}; all move by one"] if len(rates) > 1 else []

    def rule(self) -> UpdateRule:
        """Return the rule that makes the direction of a gradient, from the saved state of Adam."""
        if self.config.direction == "preconditioned_gradient":
            return PreconditionedGradient(self.adam)
        return AdamW(self.adam, trained(self.policy), self.config.policy_gradient.max_grad_norm or 0.0)

    def measurement(self, sample: Sample, step: Step, clock: Clock = CLOCK) -> Measurement:
        """Return a measurement of ``step`` on this sample of E; nothing is computed before it is asked for."""
        config = self.config
        return Measurement(
            self.policy,
            sample.rollouts,
            step,
            ranks=self.ranks,
            **config.memory_config.sizes,
            eta=self.eta,
            mode=config.importance.entropy_mode,
            clock=clock,
            unbiased=True,
        )
