"""Start everything that an experiment names, and nothing that it does not need."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ...core.compatibility import check_ranks, needs
from ...core.components import Scores
from ...core.config import validation_environment
from ...core.experiment import Experiment
from ..rollout.template import Template
from .batch import Batch
from .detectors import Detectors
from .loop import Parts
from .models import REFERENCE_HEAD, Policy, load_critic, load_policy, load_reference, load_tokenizer
from .prepare import prepare_model
from .stages import Sampler, derived_seed

if TYPE_CHECKING:
    from .ranks import Ranks


@attrs.frozen
class DetectorContext:
    """What a collapse detector is started with."""

    experiment: Experiment
    tokenizer: Any = None
    """The policy's; ``None`` where nothing is measured, only judged."""


class Reference:
    """The frozen reference policy: a model of its own, or the policy with its adapter switched off."""

    def __init__(self, policy: Policy, ranks: Ranks, adapter: bool) -> None:
        self._policy, self._ranks, self._adapter = policy, ranks, adapter

    @torch.no_grad()
    def score(self, batch: Batch, **options: Any) -> Scores:
        self._policy.eval()
        with self._policy.model.disable_adapter() if self._adapter else nullcontext():
            return Scores(**self._policy(batch.to(self._ranks.device), **options))


def assemble(experiment: Experiment, ranks: Ranks, checkpoint: Path | None = None, training: bool = True) -> Parts:
    """Load models (from ``checkpoint`` where given), start backend, engine, detectors and controller.

    Args:
        training: ``False`` starts only what sampling needs.

    Raises:
        RequestError: model or tokenizer cannot be loaded, the token head cannot compute on this device, or the
            experiment cannot be spread over this many ranks.
    """
    check_ranks(experiment, ranks.size)
    torch.manual_seed(derived_seed(experiment.seed, "init"))  # adapters start at random
    settings, trainer = experiment.model, experiment.trainer
    head = settings.head.component.on(ranks.device) if training else REFERENCE_HEAD
    # the first rank builds the model, if one is to be built; the others then find it
    path = ranks.broadcast(prepare_model(experiment) if ranks.first else "")
    saved_policy = checkpoint / "model" if checkpoint else None
    tokenizer = load_tokenizer(saved_policy or path)
    saved_critic = checkpoint / "critic" if checkpoint else None
    temperature = experiment.rollout.temperature
    policy = load_policy(settings, path, temperature, saved_policy, head).to(ranks.device)

    needed = needs(experiment) if training else frozenset()
    # ZeRO-3 leaves no rank with a whole model, so the engine is given one of its own.
    synced = training and trainer.zero_stage == 3
    sampled = load_policy(settings, path, temperature, saved_policy).to(ranks.device) if synced else policy
    engine = experiment.rollout.engine.component.start(sampled.model, tokenizer)

    def start(module: Any, optimizer: Any) -> Any:
        return trainer.backend.component.start(
            module, optimizer, zero_stage=trainer.zero_stage, dtype=settings.dtype, ranks=ranks
        )

    critic = reference = None
    if "reference" in needed:
        adapter = settings.lora is not None
        frozen = policy if adapter else load_reference(settings, path, temperature, head).to(ranks.device)
        reference = Reference(frozen, ranks, adapter)
    if "values" in needed:
        assert experiment.critic is not None
        critic = load_critic(settings, experiment.critic.path or path, saved_critic).to(ranks.device)
    context = DetectorContext(experiment, tokenizer)
    return Parts(
        sampler=Sampler(experiment, engine, Template(tokenizer, experiment.rollout.think), ranks),
        policy=start(policy, trainer) if training else policy,
        critic=start(critic, experiment.critic) if critic is not None else None,
        reference=reference,
        controller=experiment.kl.controller.component.start(experiment.kl.coef),
        detectors=Detectors(experiment.collapse if training else (), context),
        validation_environment=validation_environment(experiment),
        needs=needed,
        synced=synced,
    )
