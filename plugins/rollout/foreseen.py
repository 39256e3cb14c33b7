"""The tasks that a run will use, as far as they are known before it starts."""

from __future__ import annotations

from ...core.compose.experiment import Experiment
from .sampler_borders import CheckedBatchSampler, CheckedTaskSampler


def training_seeds(experiment: Experiment) -> range | None:
    """Return the environment seeds of all training groups, or ``None`` where they depend on what is sampled or learnt.

    Raises:
        RunError: the task sampler or the batch sampler is broken; the message names it.
    """
    rollout = experiment.rollout
    drawn = CheckedBatchSampler(rollout.batch).draws(rollout.groups)
    if drawn is None:
        return None
    return CheckedTaskSampler(rollout.tasks).foreseen(rollout.seed, drawn * experiment.trainer.steps)
