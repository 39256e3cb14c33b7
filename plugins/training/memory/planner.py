"""A memory plan adds up what each phase of a step holds on each GPU, before anything is loaded.

It is arithmetic on :class:`.model_shape.Shape` and the experiment; docs/memory.md derives every formula and says what
it was compared with. Sizes are bytes per GPU of the fullest rank. ``b`` is the width of the model's dtype (2 or 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from ....core.components import EngineMemory, SamplingLoad, Shortage
from ....core.compose.blame import blaming
from ....core.compose.combinations import needs
from ..deepspeed_backend import stage_in_effect
from ..networks.token_head import CHUNK_ELEMENTS
from ..step.budget import SCORE_FACTOR

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from .model_shape import Shape

WIDTH = {"float32": 4, "bfloat16": 2}
BUCKET = 500_000_000
"""DeepSpeed's default of reduce_bucket_size, in elements."""
LIVE = 1_000_000_000
"""DeepSpeed's default of stage3_max_live_parameters, in elements."""
SUB_GROUP = 1_000_000_000
"""DeepSpeed's default of sub_group_size, in elements."""
UNCERTAIN = frozenset({"activations", "token head", "KV cache", "gathered"})
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
        return weights + self._optimizer + 4 * _share(self.shape.trained, self._over)

    @property
    def _weights(self) -> int:
        whole = self.shape.parameters * self.b
        return _share(whole, self.ranks) if self.stage == 3 else whole

    @property
    def _optimizer(self) -> int:
        return _share(self.shape.trained, self._over) * (8 if self.stage == 0 else 12)

    def standing(self) -> int:
        """Return the bytes of the gradient shard and the bucket that ZeRO 3 holds from the start."""
        if self.stage < 3:
            return 0
        shard = _share(self.shape.trained, self.ranks) if self.offload == "none" else 0
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
        shard = _share(self.shape.trained, self.ranks) * self.b if self.offload == "none" else 0
        return bucket + shard * (1 + self.accumulates)

    def step(self) -> int:
        """Return what the optimizer step adds, 8 bytes per element.

        These are the gradients in ``b`` bytes, their flat copy and (bfloat16) its fp32 copy. Later, where AdamW takes
        several passes (on a CPU), fp32 gradients and its denominator take 8 bytes as well.
        """
        if self.offload != "none":
            return 0
        elements = _share(self.shape.trained, self._over)
        return 8 * (min(elements, SUB_GROUP) if self.stage == 3 else elements)

    @property
    def _over(self) -> int:
        """The number of ranks that share the optimizer."""
        return self.ranks if self.stage else 1


def _share(whole: int, ranks: int) -> int:
    return -(-whole // ranks)


# --- what rows need -------------------------------------------------------------------------------------------------


def layer_saved(shape: Shape, b: int) -> int:
    """Return the bytes per token that autograd keeps of a layer (RMSNorm in fp32, fused attention, gated MLP)."""
    norm = (4 + 2 * b) * shape.hidden + 4  # fp32 input, normalised, scaled, 1 / rms
    kv_heads = shape.kv_heads if b == 2 else shape.heads  # in fp32 they are repeated for each head
    attention = b * (2 * shape.heads + 2 * kv_heads) * shape.head_dim + 4 * shape.heads
    return 2 * norm + attention + 4 * b * shape.intermediate


def layer_working(shape: Shape, b: int) -> int:
    """Return the bytes per token that one layer needs while it runs."""
    return b * (3 * shape.intermediate + 4 * shape.hidden)


def activations(shape: Shape, tokens: int, b: int, checkpointing: bool) -> int:
    """Return the bytes of the forward and backward pass of one micro-batch, without the token head."""
    gradients = b * (2 * shape.intermediate + shape.hidden)
    final_norm = (4 + 2 * b) * shape.hidden
    if checkpointing:  # the input of each layer, and one layer that is computed again
        return tokens * (shape.layers * b * shape.hidden + layer_saved(shape, b) + gradients)
    return tokens * (shape.layers * layer_saved(shape, b) + final_norm + gradients)


def head_scoring(shape: Shape, tokens: int, b: int) -> int:
    """Return the bytes of three fp32 copies of a chunk of logits (the head ``torch``; ``triton`` takes less)."""
    return 12 * _chunk(shape, tokens) + tokens * b * shape.hidden


def head_training(shape: Shape, tokens: int, b: int, trains: bool) -> int:
    """Return the bytes of a chunk of logits with gradients (20 each), and of the output embedding's gradient."""
    chunk = _chunk(shape, tokens)
    embedding = b * shape.vocabulary * shape.hidden if trains else 0
    return max(20 * chunk + embedding, 3 * embedding + b * chunk) + tokens * b * shape.hidden


def _chunk(shape: Shape, tokens: int) -> int:
    return min(tokens * shape.vocabulary, max(CHUNK_ELEMENTS, shape.vocabulary))


def kv_row(shape: Shape, tokens: int, b: int) -> int:
    """Return the bytes of keys and values of all layers for a row; a sliding layer holds at most its window."""
    cached = (shape.layers - shape.sliding) * tokens + shape.sliding * min(tokens, shape.window or tokens)
    return 2 * cached * shape.kv_heads * shape.head_dim * b


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
    reference, reference_on_host = _reference(experiment, policy, b)
    engine = _engine(experiment, policy, b, ranks, memory)

    loading = {f"{name} weights": model.shape.parameters * b for name, model in zip(names, models, strict=True)}
    loading |= {"reference weights": reference, "engine": engine.loading}
    # what every phase after loading holds
    always = {f"{name} weights": model.weights() for name, model in zip(names, models, strict=True)}
    always |= {
        "reference weights": reference,
        "engine": engine.resting,
        "optimizer": sum(model.optimizer() for model in models),
        "ZeRO buffers": sum(model.standing() for model in models),
    }

    def phase(name: str, **items: int) -> Phase:
        named = {key.replace("_", " ").replace("kv", "KV"): value for key, value in items.items()}
        return Phase(name, {key: value for key, value in {**always, **named}.items() if value and key not in omitted})

    unclear = next((shape.unclear for shape in (policy, critic) if shape is not None and shape.unclear), "")
    omitted = {"activations", "KV cache"} if unclear else ()
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
    for name, model in reversed(list(zip(names, models, strict=True))):
        shape = model.shape
        passes = {"activations": activations(shape, tokens, b, settings.gradient_checkpointing)}
        if name == "policy":
            passes["token_head"] = head_training(shape, tokens, b, trains=settings.lora is None)
        phases.append(phase(f"{name} backward", gradients=model.gradients(), gathered=model.gathered(), **passes))
        phases.append(phase(f"{name} step", gradients=model.step()))
    host = sum(model.host() for model in models) + reference_on_host
    return Plan(tuple(phases), host, engine.shortage, unclear)


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


def _reference(experiment: Experiment, policy: Shape, b: int) -> tuple[int, int]:
    """Return the bytes of the reference on a GPU, and in the machine's memory: fp32 weights that bfloat16 rounds."""
    move = experiment.kl.controller.component.moves_reference
    if "reference" not in needs(experiment):
        return 0, 0
    if experiment.model.lora is not None:
        return 0 if move == "never" else policy.trained * b, 0
    return policy.parameters * b, 4 * policy.parameters if move == "towards_policy" and b < 4 else 0


def _engine(experiment: Experiment, shape: Shape, b: int, ranks: int, gpu: int) -> EngineMemory:
    """Return the memory that sampling takes, as the engine states it."""
    rollout, validation = experiment.rollout, experiment.validation
    episodes = max(rollout.groups * rollout.group_size, validation.every and validation.groups * validation.group_size)
    drawn = 24 * shape.vocabulary  # log-softmax in fp32 and its running sum in fp64
    load = SamplingLoad(
        weights=shape.parameters * b,
        row=0 if shape.unclear else kv_row(shape, rollout.max_context, b),
        row_pass=rollout.max_context * layer_working(shape, b) + drawn,
        rows=_share(episodes, ranks),
        ranks=ranks,
        sharded=experiment.trainer.zero_stage == 3,
        gpu=gpu,
    )
    with blaming(rollout.engine, "memory"):
        memory: EngineMemory = rollout.engine.component.memory(load)
    return memory
