"""A checkpoint is loaded once (policy, Adam's state, the run that wrote it), and E and U are sampled from it.

What is computed from them is in :mod:`.session`.
"""

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
from ..training.step.rewards import Shaping
from .checkpoint.adam_state import AdamState, read_adam_state
from .checkpoint.files import find_checkpoint
from .checkpoint.load import Loaded, load_checkpoint
from .config import ProbeConfig
from .estimation.clock import Clock
from .next_step import chosen
from .own_run import own_run
from .sampling.cache import drawn
from .sampling.prompts import PromptSource
from .sampling.samples import Sample, draw, stream
from .sampling.sources import EnvironmentSource, Source
from .used import learning_rate, used

CLOCK = Clock()


class Sampler:
    """A sampler holds a loaded checkpoint and what samples from it.

    Args:
        checkpoint: path of the checkpoint, by default ``checkpoint.checkpoint_path`` of the configuration.
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
        self.rollout = filled.rollout
        self.temperature = filled.generation.temperature
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
        """Hash of the policy and Adam's state when they were last hashed; ``None`` before the first time."""
        seed = filled.probe_rework.master_seed
        self.master_seed: int = self.ranks.broadcast(secrets.randbits(31) if seed is None else seed)
        self.config = self._completed(filled, path, optimizer)
        """Configuration with everything that the checkpoint and its run have added."""
        engine = _engine(self.rollout.engine.component, config.batch_config.rollout_batch_size)
        self.engine = engine.start(self.policy.model, self.loaded.tokenizer)

    def _completed(self, config: ProbeConfig, path: str, optimizer: str) -> ProbeConfig:
        """Return the configuration with the paths, the learning rate and the seed that are really used."""
        place = config.checkpoint
        return attrs.evolve(
            config,
            checkpoint=attrs.evolve(
                place,
                checkpoint_path=path,
                optimizer_path=optimizer,
                backbone=self.loaded.start if self.loaded.adapter else place.backbone,
            ),
            learning_rate=self.eta,
            probe_rework=attrs.evolve(config.probe_rework, master_seed=self.master_seed),
        )

    @property
    def policy(self) -> Any:
        return self.loaded.policy

    def draw_E(self, prompts: int, *names: object, clock: Clock = CLOCK, kept: bool = True) -> Sample:
        """Draw E: prompts uniform with replacement, from the stream of these names; ``kept`` uses the file for E."""
        file = self.config.probe_reuse.e_batch_cache_path if kept else None
        return self._draw("E", prompts, self.config.batch_config.G_E, file, names, clock)

    def draw_U(self, *names: object, clock: Clock = CLOCK) -> Sample:
        """Draw U: distinct prompts, from the stream of these names."""
        batches = self.config.batch_config
        return self._draw("U", batches.B_U, batches.G, self.config.probe_reuse.u_batch_cache_path, names, clock)

    def _draw(
        self, which: str, prompts: int, responses: int, cache: str | None, names: tuple[object, ...], clock: Clock
    ) -> Sample:
        settings: dict[str, Any] = {
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
                return draw(source, self.engine, tokenizer, ranks=self.ranks, **settings)
            digest = self.loaded.weights_digest
            return drawn(Path(cache), source, self.engine, tokenizer, policy=digest, ranks=self.ranks, **settings)

    def _source(self, which: str, config: ProbeConfig) -> Source:
        """Return where the prompts of E or U come from: a data set, or an environment with the right split."""
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
        """Return the shaping of the rewards, as in the training step that follows the checkpoint."""
        run = self.run
        step, steps = (run.step, run.experiment.trainer.steps) if run is not None else (0, 1)
        return Shaping(CheckedShaping(reward.shaping), self.max_tokens, step, steps)


def _engine(engine: Any, batch: int) -> Any:
    """Return the engine that samples ``batch`` sequences together, from the very weights that are probed."""
    if isinstance(engine, HfEngine):
        return attrs.evolve(engine, batch=batch)
    # an engine with weights of its own would sample from a policy that differs in rounding
    return HfEngine(batch=batch) if engine.own_weights else engine
