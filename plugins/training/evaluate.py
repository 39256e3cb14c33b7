"""``uncollapse eval`` validates a checkpoint, and starts nothing that only training needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ...core.runs.trust import experiment_of
from .assemble import assemble
from .processes.ranks import start_ranks
from .step.metrics import validation_metrics
from .weights.checkpoint import reading_checkpoint
from .weights.engine_weights import EngineWeights


def evaluate(
    checkpoint: Path,
    groups: int | None = None,
    temperature: float | None = None,
    overrides: Sequence[str] = (),
) -> dict[str, float]:
    """Compute the validation metrics of ``RUN/checkpoints/step_N``, or of the last good checkpoint of a run directory.

    ``overrides`` change the run's experiment, for a machine that cannot run it as it was (``rollout.engine=hf``).

    Raises:
        RequestError: there is no complete checkpoint there, the changes are no experiment, or the run names plugin
            files that are neither loaded nor trusted.
    """
    options = {"validation.groups": groups, "validation.temperature": temperature}
    changes = [f"{key}={value}" for key, value in options.items() if value is not None]
    with reading_checkpoint(checkpoint) as (run, directory):
        experiment = experiment_of(run, [*overrides, *changes])
        parts = assemble(experiment, start_ranks(), directory, training=False)
    sys.stderr.writelines(f"{note}\n" for note in parts.notes)
    try:
        EngineWeights(parts.sampler.engine, parts.policy, parts.synced).fresh()
        return validation_metrics(parts.sampler.validate(parts.validation_environment))
    finally:
        parts.close()
