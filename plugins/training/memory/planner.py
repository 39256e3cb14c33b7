"""A memory plan adds up what each phase of a step holds on each GPU, before anything is loaded.

It is arithmetic on :class:`.model_shape.Shape` and the experiment; docs/memory.md derives every formula and says what
it was compared with. Sizes are bytes per GPU of the fullest rank. ``b`` is the width of the model's dtype (2 or 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....core.components import Shortage
from ..step.budget import SCORE_FACTOR
from ..zero import stage_in_effect
from .beside import detector_memory, engine_memory, reference_memory
from .rows import WIDTH, activations, head_scoring, head_training, layer_working, share

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from .model_shape import Shape

BUCKET = 500_000_000
"""DeepSpeed's default of reduce_bucket_size, in elements."""
LIVE = 1_000_000_000
"""DeepSpeed's default of stage3_max_live_parameters, in elements."""
SUB_GROUP = 1_000_000_000
"""DeepSpeed's default of sub_group_size, in elements."""
CONTEXT = 3 * 2**28
"""Most bytes that the trainer's process holds beside its tensors: the CUDA context and loaded kernels (0.75 GiB)."""
UNCERTAIN = frozenset({"activations", "token head", "KV cache", "gathered", "detectors", "processes"})
"""Names of items that grow with the length of the rows, or are only bounded from above."""


@attrs.frozen
class Phase:
    """One moment of a training step, with what each GPU then holds."""

    name: str
    items: dict[str, int]
    """Bytes by name."""

    @property
    def total(self) -> int:
        """The sum of all items, with every row as long as ``rollout.max_context``."""
        return sum(self.items.values())

    @property
    def least(self) -> int:
        """A lower bound, which holds however short the rows are."""
        return sum(size for name, size in self.items.items() if name not in UNCERTAIN)


@attrs.frozen
class Plan:
    """The phases of a step, in their order."""

    phases: tuple[Phase, ...]
    host: int = 0
    """Bytes that each rank keeps in the machine's own memory."""
    shortage: Shortage | None = None
    """The memory that the rollout engine lacks, where its own parameters allow it too little."""
    unclear: str = ""
    """The reason why the models' layers cannot be counted. Activations and KV cache are then left out, and sums are
    lower bounds."""
    beside: int = 0
    """Bytes of each GPU that other processes than the trainer hold while it works, and its own CUDA context."""

    @property
    def fullest(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def fullest_at_least(self) -> Phase:
        """The phase whose lower bound is largest."""
        return max(self.phases, key=lambda phase: phase.least)


# --- what one trained model holds, by ZeRO stage --------------------------------------------------------------------


@attrs.frozen
class Trained:
    """A model that DeepSpeed trains on ``ranks`` GPUs with ``b`` bytes per weight.

    Source: ZeRO (Rajbhandari et al. 2020), table 1.
    """

    shape: Shape
    stage: int
    ranks: int
    b: int
    bucket: int = BUCKET
    """Elements of the bucket into which gradients are copied before they are reduced; each takes ``b`` bytes."""
    offload: str = "none"
    """What is kept in the machine's memory: ``none``, ``optimizer``, or ``all`` (the weights too)."""
    accumulates: bool = True
    """Whether an optimizer step has several micro-batches."""

    def weights(self) -> int:
        """Return the bytes of the weights on a GPU."""
        return 0 if self.offload == "all" else self._weights

    def optimizer(self) -> int:
        """Return the bytes of fp32 master weights (without ZeRO the weights themselves) and Adam's two moments."""
        return self._optimizer if self.offload == "none" else 0

    def host(self) -> int:
        """Return the bytes in the machine's memory: what is not on the GPU, and fp32 gradients beside the optimizer."""
        if self.offload == "none":
            return 0
        weights = self._weights if self.offload == "all" else 0
        return weights + self._optimizer + 4 * share(self.shape.trained, self._over)

    @property
    def _weights(self) -> int:
        whole = self.shape.parameters * self.b
        return share(whole, self.ranks) if self.stage == 3 else whole

    @property
    def _optimizer(self) -> int:
        return share(self.shape.trained, self._over) * (8 if self.stage == 0 else 12)

    def standing(self) -> int:
        """Return the bytes of the gradient shard and the bucket that ZeRO 3 holds from the start."""
        if self.stage < 3:
            return 0
        shard = share(self.shape.trained, self.ranks) if self.offload == "none" else 0
        return (self.bucket + shard) * self.b

    def gathered(self) -> int:
        """Return the bytes of the weights that ZeRO 3 has gathered or fetched for the modules that run."""
        away = self.ranks > 1 or self.offload == "all"
        return min(self.shape.parameters, LIVE) * self.b if self.stage == 3 and away else 0

    def gradients(self) -> int:
        """Return the bytes of gradients and bucket at the end of a backward pass."""
        if self.stage == 3:
            return 0
        bucket = 0 if self.stage == 0 else self.bucket * self.b
        if self.stage < 2:
            return self.shape.trained * self.b + bucket
        # those of earlier micro-batches stand beside those of this one
        shard = share(self.shape.trained, self.ranks) * self.b if self.offload == "none" else 0
        return bucket + shard * (1 + self.accumulates)

    def step(self) -> int:
        """Return what the optimizer step adds, 8 bytes per element.

        These are the gradients in ``b`` bytes, their flat copy and (bfloat16) its fp32 copy. Later, where AdamW takes
        several passes (on a CPU), fp32 gradients and its denominator take 8 bytes as well.
        """
        if self.offload != "none":
            return 0
        elements = share(self.shape.trained, self._over)
        return 8 * (min(elements, SUB_GROUP) if self.stage == 3 else elements)

    @property
    def _over(self) -> int:
        """The number of ranks that share the optimizer."""
        return self.ranks if self.stage else 1


# --- the plan -------------------------------------------------------------------------------------------------------


def plan(policy: Shape, critic: Shape | None, experiment: Experiment, ranks: int = 1, memory: int = 0) -> Plan:
    """Return what each phase of a step holds on each of ``ranks`` GPUs.

    Args:
        policy: the shape of the policy, adapters included.
        critic: the shape of the critic, if its values are needed and it is a model of its own.
        experiment: the experiment.
        ranks: the number of GPUs that train.
        memory: the bytes of one GPU, of which an engine may take a share; 0 if unknown.
    """
    settings = experiment.model
    trainer = experiment.trainer
    b = WIDTH[settings.dtype]
    width = experiment.rollout.max_context
    tokens = trainer.token_budget or trainer.micro_batch * width
    scored = SCORE_FACTOR * trainer.token_budget or trainer.score_batch * width
    models = [_trained(shape, experiment, ranks) for shape in (policy, critic) if shape is not None]
    names = ("policy", "critic")[: len(models)]
    reference, reference_on_host = reference_memory(experiment, policy)
    engine = engine_memory(experiment, policy, ranks, memory)

    detectors = detector_memory(experiment, policy, tokens=width)
    processes = {"processes": CONTEXT + engine.process}

    loading = {f"{name} weights": model.shape.parameters * b for name, model in zip(names, models, strict=True)}
    loading |= {"reference weights": reference, "engine": engine.loading, **processes}
    # what every phase after loading holds
    always = {f"{name} weights": model.weights() for name, model in zip(names, models, strict=True)}
    always |= {
        "reference weights": reference,
        "engine": engine.resting,
        "optimizer": sum(model.optimizer() for model in models),
        "ZeRO buffers": sum(model.standing() for model in models),
        **processes,
    }

    def phase(name: str, **items: int) -> Phase:
        named = {key.replace("_", " ").replace("kv", "KV"): value for key, value in items.items()}
        return Phase(name, {key: value for key, value in {**always, **named}.items() if value and key not in omitted})

    unclear = next((shape.unclear for shape in (policy, critic) if shape is not None and shape.unclear), "")
    omitted = {"activations", "KV cache", "detectors"} if unclear else ()
    gathered = max(model.gathered() for model in models)
    sampling = {"engine": engine.working, "kv_cache": engine.cache, "activations": engine.passes}
    phases = [
        Phase("loading", {key: value for key, value in loading.items() if value}),
        phase("rollout", **sampling, gathered=0 if engine.whole else models[0].gathered()),
        phase(
            "scoring",
            gathered=gathered,
            activations=scored * layer_working(policy, b),
            token_head=head_scoring(policy, scored, b),
        ),
    ]
    if detectors.peak:
        phases.append(phase("detectors", detectors=detectors.peak))
    for name, model in reversed(list(zip(names, models, strict=True))):
        shape = model.shape
        passes = {"activations": activations(shape, tokens, b, settings.gradient_checkpointing)}
        if name == "policy":
            passes["token_head"] = head_training(shape, tokens, b, trains=settings.lora is None)
        kept = detectors.kept if name == "policy" else 0
        passes |= {"gradients": model.gradients(), "gathered": model.gathered(), "detectors": kept}
        phases.append(phase(f"{name} backward", **passes))
        phases.append(phase(f"{name} step", gradients=model.step(), detectors=kept))
    host = sum(model.host() for model in models) + reference_on_host
    return Plan(tuple(phases), host, engine.shortage, unclear, CONTEXT + engine.process + engine.resting)


def _trained(shape: Shape, experiment: Experiment, ranks: int) -> Trained:
    """Return a model as the experiment's backend trains it."""
    trainer = experiment.trainer
    config = getattr(trainer.backend.component, "config", {}).get("zero_optimization", {})
    return Trained(
        shape,
        stage=stage_in_effect(trainer.zero_stage, ranks, trainer.offload, config),
        ranks=ranks,
        b=WIDTH[experiment.model.dtype],
        bucket=config.get("reduce_bucket_size", BUCKET) * (2 if config.get("overlap_comm") else 1),
        offload=trainer.offload,
        accumulates=bool(trainer.token_budget) or trainer.mini_batch > trainer.micro_batch * ranks,
    )
