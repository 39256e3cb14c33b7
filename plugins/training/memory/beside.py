"""The memory of what stands beside the models that train: the reference, the engine, the detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ....core.components import DetectorLoad, DetectorMemory, EngineMemory, SamplingLoad
from ....core.compose.blame import blaming
from ....core.compose.combinations import needs
from ..step.budget import SCORE_FACTOR
from .rows import WIDTH, activations, head_training, kv_row, layer_working, share

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from .model_shape import Shape


def reference_memory(experiment: Experiment, policy: Shape) -> tuple[int, int]:
    """Return the bytes of the reference on a GPU, and in the machine's memory: fp32 weights that bfloat16 rounds."""
    b = WIDTH[experiment.model.dtype]
    move = experiment.kl.controller.component.moves_reference
    if "reference" not in needs(experiment):
        return 0, 0
    if experiment.model.lora is not None:
        return 0 if move == "never" else policy.trained * b, 0
    return policy.parameters * b, 4 * policy.parameters if move == "towards_policy" and b < 4 else 0


def engine_memory(experiment: Experiment, shape: Shape, ranks: int, gpu: int) -> EngineMemory:
    """Return the memory that sampling takes, as the engine states it."""
    named = experiment.rollout.engine
    with blaming(named, "memory"):
        memory: EngineMemory = named.component.memory(sampling_load(experiment, shape, ranks, gpu))
    return memory


def sampling_load(experiment: Experiment, shape: Shape, ranks: int, gpu: int) -> SamplingLoad:
    """Return the work of the engine where a run may take ``gpu`` bytes of each GPU."""
    rollout, validation, b = experiment.rollout, experiment.validation, WIDTH[experiment.model.dtype]
    episodes = max(rollout.groups * rollout.group_size, validation.every and validation.groups * validation.group_size)
    drawn = 24 * shape.vocabulary  # log-softmax in fp32 and its running sum in fp64
    return SamplingLoad(
        weights=shape.parameters * b,
        row=0 if shape.unclear else kv_row(shape, rollout.max_context, b),
        row_pass=rollout.max_context * layer_working(shape, b) + drawn,
        rows=share(episodes, ranks),
        ranks=ranks,
        sharded=experiment.trainer.zero_stage == 3,
        gpu=gpu,
        token_pass=layer_working(shape, b),
        draw=drawn,
    )


def detector_memory(experiment: Experiment, shape: Shape, tokens: int) -> DetectorMemory:
    """Return the memory of all detectors, which measure one after the other; each states its own."""
    b, trainer = WIDTH[experiment.model.dtype], experiment.trainer
    # their passes keep all activations: those that are to be computed again would not fit a budget that counts on it
    packed = trainer.token_budget and not experiment.model.gradient_checkpointing
    most = trainer.token_budget if packed else trainer.micro_batch * tokens
    load = DetectorLoad(
        trained=shape.trained,
        tokens=tokens,
        token_pass=layer_working(shape, b),
        gradient_pass=activations(shape, most, b, checkpointing=False)
        + head_training(shape, most, b, trains=experiment.model.lora is None),
        packed=SCORE_FACTOR * trainer.token_budget,
    )
    peak = kept = 0
    for named in experiment.collapse:
        with blaming(named, "memory"):
            stated = named.component.memory(load)
            peak = max(peak, stated.peak - stated.kept)
            kept += stated.kept
    return DetectorMemory(peak + kept, kept)
