"""Start everything that an experiment names, and nothing that it does not need."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ...core.components import Scores, TrainEngine
from ...core.compose.blame import blaming, require_session
from ...core.compose.combinations import check_ranks, needs
from ...core.compose.config import validation_environment
from ...core.compose.experiment import Experiment
from ..rollout.borders import CheckedEngine, CheckedEnvironment
from ..rollout.dialogue import CheckedDialogue
from ..rollout.template import Template
from .memory.model_shape import empty_policy
from .networks import fused_layers
from .networks.adapters import require_mergeable
from .networks.model_folder import check_vocabulary, loading, read_config, require_unquantised
from .networks.models import REFERENCE_HEAD, Policy, load_critic, load_policy, load_reference, load_tokenizer
from .networks.packing import enable_packing
from .networks.positions import check_positions
from .networks.prepare import prepare_model
from .networks.shared_critic import HEAD, with_value_head
from .step.batch import Batch
from .step.borders import CheckedController, CheckedEntropyController
from .step.detectors import Detectors
from .step.parts import Parts
from .step.sampling import Sampler
from .step.stages import derived_seed
from .weights import start_model

if TYPE_CHECKING:
    from .processes.ranks import Ranks


@attrs.frozen
class DetectorContext:
    """What a collapse detector is started with."""

    experiment: Experiment
    tokenizer: Any = None
    """The policy's; ``None`` where nothing is measured, only judged."""


@attrs.frozen(eq=False)
class Untrained:
    """A policy that no backend has taken over, for what only samples."""

    module: Policy
    stage: int = 0


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
    _check_machine(experiment, ranks, training)
    serving, settings, trainer = experiment.rollout.engine.component, experiment.model, experiment.trainer
    head = settings.head.component.on(ranks.device) if training else REFERENCE_HEAD
    # the first rank builds the model, if one is to be built; the others then find it
    path = ranks.broadcast(prepare_model(experiment) if ranks.first else "")
    torch.manual_seed(derived_seed(experiment.seed, "init"))  # adapters start at random; building a model draws as well
    saved_policy = checkpoint / "model" if checkpoint else None
    notes = _check_model(experiment, path if settings.lora else saved_policy or path)
    tokenizer = load_tokenizer(saved_policy or path)
    template = Template(tokenizer, CheckedDialogue(experiment.dialogue), experiment.rollout.think)
    saved_critic = checkpoint / "critic" if checkpoint else None
    temperature = experiment.rollout.temperature
    policy = load_policy(settings, path, temperature, saved_policy, head)
    check_vocabulary(tokenizer, policy.language_model, saved_policy or path)
    if settings.lora is not None:
        require_mergeable(policy.model, trainer.zero_stage if training else 0)
    policy = policy.to(ranks.device)
    start_sums = start_model.of(policy.model) if settings.lora is not None else {}

    def adapt(model: Any) -> None:
        if settings.liger:
            fused_layers.fuse(model)
        if trainer.token_budget:
            enable_packing(model)

    if training:
        adapt(policy.language_model)
    needed = needs(experiment) if training else frozenset()
    values_by = experiment.critic if "values" in needed else None
    if values_by is not None and values_by.shared:
        policy = with_value_head(policy, values_by, saved_critic).to(ranks.device)
    own = serving.own_weights
    sharded = training and trainer.zero_stage == 3
    sampled: Any = policy
    if sharded and not own:  # no rank keeps a whole model, so the engine is given one: plain, as adapters come merged
        plain = attrs.evolve(settings, lora=None, gradient_checkpointing=False)
        sampled = load_policy(plain, path, temperature).to(ranks.device)
    with ExitStack() as undo:
        with blaming(experiment.rollout.engine, "start"):
            session = serving.start(sampled.model, tokenizer, max_context=experiment.rollout.max_context)
        engine = CheckedEngine(experiment.rollout.engine, session)
        undo.callback(engine.close)
        engine.sleep()  # the optimizer is about to want the memory

        def start(module: Any, optimizer: Any, **options: Any) -> Any:
            with blaming(trainer.backend, "start"):
                started = trainer.backend.component.start(
                    module,
                    optimizer,
                    zero_stage=trainer.zero_stage,
                    dtype=settings.dtype,
                    ranks=ranks,
                    offload=trainer.offload,
                    **options,
                )
            require_session(trainer.backend, "start", started, TrainEngine)
            undo.callback(started.close)
            return started

        reference = None
        if "reference" in needed:
            adapter = settings.lora is not None
            frozen = policy if adapter else load_reference(settings, path, temperature, head).to(ranks.device)
            if not adapter:
                start_sums = start_model.of(frozen.model)
                adapt(frozen.model)
            reference = Reference(frozen, ranks, adapter)
        if start_sums:  # whoever only samples loads no reference
            start_model.require_same(start_sums, settings.dtype, checkpoint, path)
        trained: Any = Untrained(policy)
        critic = None
        if values_by is not None and values_by.shared:
            trained = critic = start(policy, trainer, own_lr={HEAD: values_by.lr})
        elif training:
            trained = start(policy, trainer)
        if values_by is not None and not values_by.shared:
            notes += _check_model(experiment, saved_critic or values_by.path or path, "critic.path")
            valued = load_critic(settings, values_by.path or path, saved_critic).to(ranks.device)
            adapt(valued.decoder)
            critic = start(valued, values_by)
        context = DetectorContext(experiment, tokenizer)
        return Parts(
            sampler=Sampler(experiment, engine, template, ranks),
            policy=trained,
            critic=critic,
            reference=reference,
            controller=CheckedController(experiment.kl.controller).start(experiment.kl.coef),
            entropy_controller=CheckedEntropyController(experiment.entropy.controller).start(
                experiment.entropy.coef, trainer.steps
            ),
            detectors=Detectors(experiment.collapse if training else (), context),
            validation_environment=CheckedEnvironment(experiment.environment, validation_environment(experiment)),
            needs=needed,
            synced=own or sharded,
            notes=tuple(dict.fromkeys(notes)),
            start_sums=start_sums,
            close=undo.pop_all().close,
        )


def _check_machine(experiment: Experiment, ranks: Ranks, training: bool) -> None:
    """Raises RequestError where these processes, or the libraries that are installed, cannot do what is asked for."""
    check_ranks(experiment, ranks.size)
    experiment.rollout.engine.component.require(ranks.size)
    if training and experiment.model.liger:
        fused_layers.require()


def check_models(experiment: Experiment, ranks: Ranks) -> None:
    """Refuse, from configurations alone, what :func:`assemble` would refuse once a run's directory is there.

    Raises:
        RequestError: there is no model, it is quantised or has too few positions, or its layers cannot be adapted.
    """
    _check_machine(experiment, ranks, training=True)
    settings, critic, path = experiment.model, experiment.critic, prepare_model(experiment)
    _check_model(experiment, path)
    if critic is not None and critic.path is not None and "values" in needs(experiment):
        _check_model(experiment, critic.path, "critic.path")
    if settings.lora is not None:
        config = read_config(path)
        with loading(path):
            require_mergeable(empty_policy(config, settings.lora), experiment.trainer.zero_stage)


def _check_model(experiment: Experiment, path: Path | str, key: str = "model.path") -> list[str]:
    """What to say of a model, before its weights are loaded; raises RequestError where it cannot be trained."""
    config = read_config(path, key)
    require_unquantised(config, path, key)
    note = check_positions(config, experiment.rollout.max_context, path, key)
    return [note] if note else []
