"""A checkpoint, loaded once and probed as often as wanted: its policy, Adam's state, and what samples from it."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ...core.config import compose
from ...core.errors import RequestError
from ...core.experiment import Experiment, Reward, Rollout
from ...core.runs import RunDirectory
from ..rollout.engine_hf import HfEngine
from ..training.losses import PolicyObjective
from ..training.ranks import Ranks, start_ranks
from ..training.stages import to_batch
from .checkpoint.adam_state import AdamState, read_adam_state
from .checkpoint.files import run_directory
from .checkpoint.load import Loaded, load_checkpoint
from .config import ProbeConfig
from .estimation.clock import Clock
from .estimation.directions import AdamW, PreconditionedGradient, UpdateRule
from .estimation.measurement import Measurement
from .estimation.passes import Passes, trained
from .estimation.step import Step
from .estimation.update import make_update
from .sampling.cache import drawn
from .sampling.prompts import PromptSource
from .sampling.samples import Sample, draw, stream
from .sampling.sources import EnvironmentSource, Source

CLOCK = Clock()


class Session:
    """What all probes of one checkpoint share.

    Args:
        checkpoint: by default ``checkpoint.checkpoint_path`` of the configuration.

    Raises:
        RequestError: the checkpoint is incomplete, has no learning rate, or nothing says what to sample.
    """

    def __init__(self, config: ProbeConfig, checkpoint: str | Path | None = None, ranks: Ranks | None = None) -> None:
        self.config, self.ranks = config, ranks or start_ranks()
        place = config.checkpoint
        path = str(checkpoint or place.checkpoint_path)
        if not path:
            raise RequestError("no checkpoint is given", "checkpoint.checkpoint_path", "name one, or use --checkpoint")
        optimizer = place.optimizer_path if path == place.checkpoint_path else ""  # another checkpoint has its own
        directory = run_directory(Path(path))
        run = compose(RunDirectory(directory).read_config()) if directory is not None else None
        self.rollout = config.rollout or (run.rollout if run is not None else Rollout())
        own = run is not None and config.batch_config.dataset_name is None and config.batch_config.environment is None
        generation = config.generation
        self.temperature = generation.temperature or (self.rollout.temperature if own else 1.0)
        self.max_tokens = generation.max_new_tokens or (self.rollout.max_tokens if own else 256)
        self.loaded: Loaded = load_checkpoint(
            path,
            backbone=place.backbone or place.model_config_path or None,
            optimizer_path=optimizer or None,
            temperature=self.temperature,
            use_qlora=place.use_qlora,
            device=self.ranks.device,
        )
        self.adam: AdamState = read_adam_state(self.loaded.optimizer_path, self.loaded.policy)
        self.eta = _learning_rate(config, self.adam)
        self.digest: str | None = None
        """Of the policy and Adam's state as they were last seen; ``None`` before the first look."""
        self.sources = {name: self._source(name, run) for name in "EU"}
        self.master_seed = self.ranks.broadcast(
            secrets.randbits(31) if config.probe_rework.master_seed is None else config.probe_rework.master_seed
        )
        engine = self.rollout.engine.component
        batch = config.batch_config.rollout_batch_size
        if isinstance(engine, HfEngine):
            engine = attrs.evolve(engine, batch=batch)
        elif getattr(engine, "own_weights", False):  # the samples must be the probed policy's own, to the last bit
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

    def _source(self, which: str, run: Experiment | None) -> Source:
        batches = self.config.batch_config
        split = batches.E_split if which == "E" else batches.U_split
        if batches.dataset_name is not None:
            return PromptSource.named(batches.dataset_name, split or batches.split, batches.max_prompt_tokens)
        named = batches.environment or (run.environment if run is not None else None)
        if named is None:
            raise RequestError(
                "nothing says what to sample, and the checkpoint belongs to no run of this package",
                "batch_config",
                "give batch_config.dataset_name or batch_config.environment",
            )
        environment = named.component
        if split is not None:
            if not hasattr(environment, "split"):
                raise RequestError(
                    f"the environment {named.name} has no splits",
                    f"batch_config.{which}_split",
                    "leave the key out, or choose an environment with a field split",
                )
            environment = attrs.evolve(environment, split=split)
        reward = self.config.reward or (run.reward if run is not None else Reward())
        return EnvironmentSource(environment, self.rollout, reward)

    # --- computing --------------------------------------------------------------------------------------------------

    def step(self, sample: Sample, clock: Clock = CLOCK) -> Step:
        """The update that this sample of U makes; its gradient and direction are computed here."""
        config, gradient = self.config, self.config.policy_gradient
        kl = gradient.kl.component if gradient.kl is not None else None
        objective = PolicyObjective(gradient.policy_loss.component, gradient.entropy_coeff, kl, gradient.kl_coef)
        with clock("phase2_sum_Y"):
            update = make_update(
                sample.rollouts,
                advantage=gradient.advantage.component,
                objective=objective,
                weighting=config.probe_rework.weighting_mode,
                ref_logprobs=self._reference(sample) if kl is not None else None,
            )
            step = Step(self.policy, update, self.rule(), ranks=self.ranks, **config.memory_config.sizes)
            step.direction  # noqa: B018 - so that its time is counted here
        return step

    def rule(self) -> UpdateRule:
        if self.config.direction == "preconditioned_gradient":
            return PreconditionedGradient(self.adam)
        return AdamW(self.adam, trained(self.policy), self.config.policy_gradient.max_grad_norm)

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
        )

    def _reference(self, sample: Sample) -> Tensor:
        """[B, T] log-probs of the policy without its adapter."""
        if not self.loaded.adapter:
            raise RequestError(
                "a KL term needs a reference policy, and a full model has no adapter to switch off",
                "policy_gradient.kl",
                "probe an adapter, or leave the KL term out",
            )
        passes = Passes(self.policy, to_batch(sample.rollouts), ranks=self.ranks, **self.config.memory_config.sizes)
        with torch.no_grad(), self.policy.model.disable_adapter():
            return passes.forward()["logprobs"].float()


def _learning_rate(config: ProbeConfig, adam: AdamState) -> float:
    if config.learning_rate is not None:
        return config.learning_rate
    if adam.base_lr is None:
        raise RequestError(
            "the learning rate is not given, and the checkpoint has recorded none that is positive",
            "learning_rate",
            "give the learning rate of the step, such as 2e-6",
        )
    return adam.base_lr
