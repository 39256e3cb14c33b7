"""A checkpoint, loaded once and probed as often as wanted: its policy, Adam's state, and what samples from it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.experiment import Reward
from ...core.errors import RequestError
from ..rollout.dialogue import CheckedDialogue
from ..rollout.engine_hf import HfEngine
from ..training.processes.ranks import Ranks, start_ranks
from ..training.step.borders import CheckedShaping
from ..training.step.losses import PolicyObjective
from ..training.step.rewards import Shaping
from .checkpoint.adam_state import AdamState, read_adam_state
from .checkpoint.files import find_checkpoint
from .checkpoint.load import Loaded, load_checkpoint
from .config import ProbeConfig
from .credit import credit, pay_kl, reference_logprobs
from .estimation.clock import Clock
from .estimation.directions import AdamW, PreconditionedGradient, UpdateRule
from .estimation.measurement import Measurement
from .estimation.passes import trained
from .estimation.step import Step
from .estimation.update import make_update
from .next_step import chosen, left_out, objective
from .own_run import own_run
from .sampling.cache import drawn
from .sampling.prompts import PromptSource
from .sampling.samples import Sample, draw, stream
from .sampling.sources import EnvironmentSource, Source
from .used import learning_rate, used

CLOCK = Clock()


class Session:
    """What all probes of one checkpoint share.

    Args:
        checkpoint: by default ``checkpoint.checkpoint_path`` of the configuration.
        spare_rate: whether the learning rate gives way to one that the checkpoint has recorded.

    Raises:
        RequestError: the checkpoint is incomplete, has no learning rate, or nothing says what to sample.
    """

    def __init__(
        self,
        config: ProbeConfig,
        checkpoint: str | Path | None = None,
        ranks: Ranks | None = None,
        *,
        spare_rate: bool = False,
    ) -> None:
        self.ranks = ranks or start_ranks()
        place = config.checkpoint
        path = str(checkpoint or place.checkpoint_path)
        if not path:
            raise RequestError("no checkpoint is given", "checkpoint.checkpoint_path", "name one, or use --checkpoint")
        optimizer = place.optimizer_path if path == place.checkpoint_path else ""  # another checkpoint has its own
        find_checkpoint(path, optimizer or None)  # says what is missing, before anything else is looked at
        self.run = own_run(path)
        self.chosen = chosen(config)
        """Keys of the step that the configuration itself says."""
        filled = used(config, self.run)
        assert filled.rollout is not None and filled.generation.temperature and filled.generation.max_new_tokens
        self.rollout, self.temperature = filled.rollout, filled.generation.temperature
        self.max_tokens = filled.generation.max_new_tokens
        self.sources = {name: self._source(name, filled) for name in "EU"}
        for source in self.sources.values():
            source.check()  # a data set that cannot be read is found before a large model is
        self.loaded: Loaded = load_checkpoint(
            path,
            backbone=place.backbone or place.model_config_path or None,
            optimizer_path=optimizer or None,
            temperature=self.temperature,
            use_qlora=place.use_qlora,
            device=self.ranks.device,
        )
        self.adam: AdamState = read_adam_state(self.loaded.optimizer_path, self.loaded.policy)
        self.eta, self.rate_by = learning_rate(config, self.adam, self.run, spare_rate)
        self.digest: str | None = None
        """Of the policy and Adam's state as they were last seen; ``None`` before the first look."""
        work = filled.probe_rework
        self.master_seed: int = self.ranks.broadcast(
            secrets.randbits(31) if work.master_seed is None else work.master_seed
        )
        self.config = attrs.evolve(
            filled,
            checkpoint=attrs.evolve(
                place,
                checkpoint_path=path,
                optimizer_path=optimizer,
                backbone=self.loaded.start if self.loaded.adapter else place.backbone,
            ),
            learning_rate=self.eta,
            probe_rework=attrs.evolve(work, master_seed=self.master_seed),
        )
        """With everything that the checkpoint and its run have said."""
        engine = self.rollout.engine.component
        batch = config.batch_config.rollout_batch_size
        if isinstance(engine, HfEngine):
            engine = attrs.evolve(engine, batch=batch)
        elif engine.own_weights:  # the samples must be the probed policy's own, to the last bit
            engine = HfEngine(batch=batch)
        self.engine = engine.start(self.policy.model, self.loaded.tokenizer)

    @property
    def policy(self) -> Any:
        return self.loaded.policy

    # --- sampling ---------------------------------------------------------------------------------------------------

    def draw_E(self, prompts: int, *names: object, clock: Clock = CLOCK, kept: bool = True) -> Sample:
        """Prompts uniform with replacement, from the stream of these names; in the file for E, if it is ``kept``."""
        file = self.config.probe_reuse.e_batch_cache_path if kept else None
        return self._draw("E", prompts, self.config.batch_config.G_E, file, names, clock)

    def draw_U(self, *names: object, clock: Clock = CLOCK) -> Sample:
        """Distinct prompts, from the stream of these names."""
        batches = self.config.batch_config
        return self._draw("U", batches.B_U, batches.G, self.config.probe_reuse.u_batch_cache_path, names, clock)

    def _draw(
        self, which: str, prompts: int, responses: int, cache: str | None, names: tuple[object, ...], clock: Clock
    ) -> Sample:
        how: dict[str, Any] = {
            "prompts": prompts,
            "responses": responses,
            "with_replacement": which == "E",
            "seed": stream(self.master_seed, which, *names),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        source, tokenizer = self.sources[which], self.loaded.tokenizer
        with clock("phase0_sampling"):
            if cache is None:
                return draw(source, self.engine, tokenizer, ranks=self.ranks, **how)
            digest = self.loaded.weights_digest
            return drawn(Path(cache), source, self.engine, tokenizer, policy=digest, ranks=self.ranks, **how)

    def _source(self, which: str, config: ProbeConfig) -> Source:
        batches = config.batch_config
        split = batches.E_split if which == "E" else batches.U_split
        if batches.dataset_name is not None:
            return PromptSource.named(batches.dataset_name, split or batches.split, batches.max_prompt_tokens)
        named = batches.environment
        assert named is not None and config.dialogue is not None and config.reward is not None
        environment = named.component
        if split is not None:
            if not hasattr(environment, "split"):
                raise RequestError(
                    f"the environment {named.name} has no splits",
                    f"batch_config.{which}_split",
                    "leave the key out, or choose an environment with a field split",
                )
            try:
                environment = attrs.evolve(environment, split=split)
            except ValueError as error:
                reason = f"the environment {named.name} has no split {split!r}: {error.args[0]}"
                raise RequestError(reason, f"batch_config.{which}_split", "name one that it has") from error
        dialogue, shaping = CheckedDialogue(config.dialogue), self._shaping(config.reward)
        return EnvironmentSource(environment, dialogue, self.rollout, config.reward, shaping)

    def _shaping(self, reward: Reward) -> Shaping:
        """Of the rewards, as in the training step that follows the checkpoint."""
        run = self.run
        step, steps = (run.step, run.experiment.trainer.steps) if run is not None else (0, 1)
        return Shaping(CheckedShaping(reward.shaping), self.max_tokens, step, steps)

    # --- computing --------------------------------------------------------------------------------------------------

    def step(self, sample: Sample, clock: Clock = CLOCK) -> Step:
        """The update that this sample of U makes; its gradient and direction are computed here."""
        config, gradient = self.config, self.config.policy_gradient
        assert gradient.advantage is not None and gradient.policy_loss is not None
        assert config.probe_rework.weighting_mode is not None
        kl = gradient.kl.component if gradient.kl is not None else None
        in_loss = gradient.kl_placement == "loss"
        with clock("phase2_sum_Y"):
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
            update = make_update(
                rollouts,
                advantage=gradient.advantage.component,
                objective=loss,
                weighting=config.probe_rework.weighting_mode,
                max_length=self.rollout.max_context,
                ref_logprobs=ref_logprobs,
                reweight=bool(gradient.soft_advantage_reweight),
                without_task=bool(gradient.zero_task_advantage),
                **credit(self, sample),
            )
            step = Step(self.policy, update, self.rule(), ranks=self.ranks, **config.memory_config.sizes)
            step.direction  # noqa: B018 - so that its time is counted here
        return step

    def predicted_step(self) -> dict[str, Any]:
        """What is predicted, as plain data: of the optimizer, of the loss, who says so, and what it leaves out."""
        config, run = self.config, self.run
        norm = config.policy_gradient.max_grad_norm
        clipped = f"gradient clipped to the norm {norm:g}" if norm else "gradient not clipped"
        if run is not None:
            but = f", but for {', '.join(self.chosen)} of the configuration" if self.chosen else ""
            by = f"the run {run.directory.name} after step {run.step}{but}"
        else:
            but = f"{', '.join(self.chosen)} of the configuration, else " if self.chosen else ""
            by = f"no run of this package wrote the checkpoint: {but}Dr. GRPO without clipping, KL and entropy term"
        return {
            "optimizer": config.direction,
            "learning_rate": f"{self.eta:g} ({self.rate_by})",
            "clipping": clipped if config.direction == "adamw" else "not clipped",
            "loss": objective(config),
            "said_by": by,
            "left_out": [*(left_out(config, run) if run is not None else ()), *self._several_rates()],
        }

    def _several_rates(self) -> list[str]:
        rates = self.adam.rates
        shown = ", ".join(f"{rate:g}" for rate in rates)
        return [f"parameter groups have the learning rates {shown}; all move by one"] if len(rates) > 1 else []

    def rule(self) -> UpdateRule:
        if self.config.direction == "preconditioned_gradient":
            return PreconditionedGradient(self.adam)
        return AdamW(self.adam, trained(self.policy), self.config.policy_gradient.max_grad_norm or 0.0)

    def measurement(self, sample: Sample, step: Step, clock: Clock = CLOCK) -> Measurement:
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
