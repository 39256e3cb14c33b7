"""Start everything that an experiment names, and nothing that it does not need."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ...core.components import TrainEngine
from ...core.compose.blame import blaming, require_session
from ...core.compose.combinations import check_ranks, needs
from ...core.compose.config import validation_environment
from ...core.compose.experiment import Critic, Experiment, Trainer
from ..rollout.borders import CheckedEnvironment
from ..rollout.dialogue import CheckedDialogue
from ..rollout.engine_borders import CheckedEngine
from ..rollout.template import Template
from .memory.model_shape import empty_policy
from .memory.own_place import engine_within
from .networks import fused_layers
from .networks.adapters import require_mergeable
from .networks.entropies import check_entropies
from .networks.model_folder import check_vocabulary, loading, read_config, require_unquantised
from .networks.models import REFERENCE_HEAD, Policy, load_critic, load_policy, load_reference, load_tokenizer
from .networks.packing import enable_packing
from .networks.positions import check_positions
from .networks.prepare import prepare_model, with_start_model
from .networks.shared_critic import HEAD, with_value_head
from .step.borders import CheckedAdvantage, CheckedController, CheckedEntropyController
from .step.detectors import Detectors
from .step.parts import Parts
from .step.sampling import Sampler
from .step.stages import derived_seed
from .weights import start_model
from .weights.reference import Reference, ReferenceAdapter, ReferenceModel, saved

if TYPE_CHECKING:
    from ...core.compose.named import Named
    from ..rollout.fingerprint import Fingerprint
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


def assemble(experiment: Experiment, ranks: Ranks, checkpoint: Path | None = None, training: bool = True) -> Parts:
    """Load models (from ``checkpoint`` where given), start backend, engine, detectors and controller.

    Args:
        training: ``False`` starts only what sampling needs.

    Raises:
        RequestError: model or tokenizer cannot be loaded, the token head cannot compute on this device, or the
            experiment cannot be spread over this many ranks.
    """
    _check_machine(experiment, ranks, training)
    models = _Models(experiment, ranks, checkpoint, training)
    torch.manual_seed(derived_seed(experiment.seed, "init"))  # adapters start at random; building a model draws as well
    engine_here, notes = engine_within(experiment, ranks)
    experiment = with_start_model(experiment, models.path)
    tokenizer = models.tokenizer()
    template = Template(tokenizer, CheckedDialogue(experiment.dialogue), experiment.rollout.think)
    policy = models.policy(tokenizer)
    sampled = models.sampled(policy)
    with ExitStack() as undo:
        engine = _start_engine(engine_here, experiment.rollout.max_context, sampled, tokenizer, undo)
        reference = models.reference(policy)
        models.require_same_start()
        trained, critic = _start_training(models, policy, undo)
        context = DetectorContext(experiment, tokenizer)
        return Parts(
            sampler=Sampler(experiment, engine, template, ranks),
            policy=trained,
            critic=critic,
            reference=reference,
            advantage=CheckedAdvantage(experiment.advantage).start(),
            controller=CheckedController(experiment.kl.controller).start(experiment.kl.coef),
            entropy_controller=CheckedEntropyController(experiment.entropy.controller).start(
                experiment.entropy.coef, experiment.trainer.steps
            ),
            detectors=Detectors(experiment.collapse if training else (), context),
            validation_environment=CheckedEnvironment(
                experiment.environment, validation_environment(experiment), experiment.reward.weights
            ),
            needs=models.needs,
            synced=experiment.rollout.engine.component.own_weights or models.sharded,
            notes=tuple(dict.fromkeys([*models.notes, *notes])),
            start_sums=models.start_sums,
            close=undo.pop_all().close,
        )


class _Models:
    """The models of an experiment, loaded one after the other, and what is noticed of them."""

    def __init__(self, experiment: Experiment, ranks: Ranks, checkpoint: Path | None, training: bool) -> None:
        self.experiment, self.ranks = experiment, ranks
        self.checkpoint, self.training = checkpoint, training
        self.needs = needs(experiment) if training else frozenset()
        self.critic = experiment.critic if "values" in self.needs else None
        """The section of the critic, where its values are needed."""
        self.sharded = training and experiment.trainer.zero_stage == 3
        """Whether no rank keeps a whole model."""
        self.notes: list[str] = []
        self.start_sums: dict[str, Fingerprint] = {}
        self._head = experiment.model.head.component.on(ranks.device) if training else REFERENCE_HEAD
        # the first rank builds the model, if one is to be built; the others then find it
        self._path = ranks.broadcast(prepare_model(experiment) if ranks.first else "")
        self._saved_policy = checkpoint / "model" if checkpoint else None
        self._saved_critic = checkpoint / "critic" if checkpoint else None

    @property
    def path(self) -> str:
        """The start model: a name, or a directory."""
        return str(self._path)

    def tokenizer(self) -> Any:
        """Return the policy's tokenizer. What the model's configuration rules out is refused before weights load."""
        start = self._path if self.experiment.model.lora else self._saved_policy or self._path
        self.notes += _check_model(self.experiment, start)
        return load_tokenizer(self._saved_policy or self._path)

    def policy(self, tokenizer: Any) -> Policy:
        """Return the policy on this rank's device, with the value head of a critic that shares it."""
        settings, path = self.experiment.model, self._path
        saved = self._saved_policy
        policy = load_policy(settings, path, self.experiment.rollout.temperature, saved, self._head)
        check_vocabulary(tokenizer, policy.language_model, saved or path)
        if settings.lora is not None:
            require_mergeable(policy.model, self.experiment.trainer.zero_stage if self.training else 0)
        policy = policy.to(self.ranks.device)
        if settings.lora is not None:
            self.start_sums = start_model.of(policy.model)
        if self.training:
            self._adapt(policy.language_model)
        if self.critic is not None and self.critic.shared:
            policy = with_value_head(policy, self.critic, self._saved_critic).to(self.ranks.device)
        return policy

    def sampled(self, policy: Policy) -> Policy:
        """What the engine samples with: the policy, or a whole model of its own where no rank keeps one."""
        if not self.sharded or self.experiment.rollout.engine.component.own_weights:
            return policy
        plain = attrs.evolve(self.experiment.model, lora=None, gradient_checkpointing=False)  # adapters come merged
        return load_policy(plain, self._path, self.experiment.rollout.temperature).to(self.ranks.device)

    def reference(self, policy: Policy) -> Reference | None:
        """The reference policy, where something needs it: the start model, or what the checkpoint has moved it to."""
        if "reference" not in self.needs:
            return None
        moved = saved(self.checkpoint)
        adapts = self.experiment.model.lora is not None
        reference = ReferenceAdapter(policy, self.ranks) if adapts else self._reference_model(bool(moved))
        if moved:
            reference.load(moved)
        return reference

    def _reference_model(self, moved: bool) -> Reference:
        """A frozen model. One that has moved rests on the start model no longer: the saved policy gives its shape."""
        path = self._saved_policy if moved and self._saved_policy else self._path
        temperature = self.experiment.rollout.temperature
        frozen = load_reference(self.experiment.model, path, temperature, self._head).to(self.ranks.device)
        if not moved:
            self.start_sums = start_model.of(frozen.model)
        self._adapt(frozen.model)
        by_parts = self.experiment.kl.controller.component.moves_reference == "towards_policy"
        return ReferenceModel(frozen, self.ranks, by_parts)

    def require_same_start(self) -> None:
        """Raises RequestError where the model that the run began with has become another one."""
        if self.start_sums:  # whoever only samples loads no reference
            start_model.require_same(self.start_sums, self.experiment.model.dtype, self.checkpoint, self._path)

    def own_critic(self, critic: Critic) -> Any:
        """The model of a critic that shares nothing with the policy."""
        path, saved = critic.path or self._path, self._saved_critic
        self.notes += _check_model(self.experiment, saved or path, "critic.path")
        valued = load_critic(self.experiment.model, path, saved).to(self.ranks.device)
        self._adapt(valued.decoder)
        return valued

    def _adapt(self, model: Any) -> None:
        """Fused layers and packed rows, where they are asked for."""
        if self.experiment.model.liger:
            fused_layers.fuse(model)
        if self.experiment.trainer.token_budget:
            enable_packing(model)


def _start_engine(named: Named, max_context: int, sampled: Policy, tokenizer: Any, undo: ExitStack) -> CheckedEngine:
    """The engine, asleep: the optimizer is about to want the memory."""
    with blaming(named, "start"):
        session = named.component.start(sampled.model, tokenizer, max_context=max_context)
    engine = CheckedEngine(named, session)
    undo.callback(engine.close)
    engine.sleep()
    return engine


def _start_training(models: _Models, policy: Policy, undo: ExitStack) -> tuple[Any, Any]:
    """The policy under its backend (untrained where it only samples), and the critic, where one is needed."""
    trainer, critic = models.experiment.trainer, models.critic
    if critic is not None and critic.shared:
        shared = _start_backend(models, policy, trainer, undo, own_lr={HEAD: critic.lr})
        return shared, shared
    trained = _start_backend(models, policy, trainer, undo) if models.training else Untrained(policy)
    if critic is None:
        return trained, None
    return trained, _start_backend(models, models.own_critic(critic), critic, undo)


def _start_backend(
    models: _Models, module: Any, optimizer: Trainer | Critic, undo: ExitStack, **options: Any
) -> TrainEngine:
    """One model under the backend, with the optimizer of its section."""
    trainer = models.experiment.trainer
    with blaming(trainer.backend, "start"):
        started: TrainEngine = trainer.backend.component.start(
            module,
            optimizer,
            zero_stage=trainer.zero_stage,
            dtype=models.experiment.model.dtype,
            ranks=models.ranks,
            offload=trainer.offload,
            **options,
        )
    require_session(trainer.backend, "start", started, TrainEngine)
    undo.callback(started.close)
    return started


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
    if key == "model.path":
        check_entropies(experiment, config, path)
    note = check_positions(config, experiment.rollout.max_context, path, key)
    return [note] if note else []
