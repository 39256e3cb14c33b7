"""``uncollapse eval``: validation of a checkpoint, with nothing started that only training needs."""

from __future__ import annotations

from pathlib import Path

import attrs

from ...core.config import compose
from ...core.errors import RequestError
from ...core.runs import RunDirectory
from .assemble import assemble
from .engine_weights import EngineWeights
from .loop import validation_metrics
from .ranks import start_ranks


def evaluate(checkpoint: Path, groups: int | None = None, temperature: float | None = None) -> dict[str, float]:
    """Validation metrics of ``RUN/checkpoints/step_N``, or of the last good checkpoint of the run directory given.

    Raises:
        RequestError: there is no complete checkpoint there.
    """
    run, checkpoint = _find(checkpoint)
    experiment = compose(run.read_config())
    validation = experiment.validation
    if groups is not None:
        validation = attrs.evolve(validation, groups=groups)
    if temperature is not None:
        validation = attrs.evolve(validation, temperature=temperature)
    experiment = attrs.evolve(experiment, validation=validation)
    parts = assemble(experiment, start_ranks(), checkpoint, training=False)
    try:
        EngineWeights(parts.sampler.engine, parts.policy, parts.synced).fresh()
        return validation_metrics(parts.sampler.validate(parts.validation_environment))
    finally:
        parts.sampler.engine.close()


def _find(path: Path) -> tuple[RunDirectory, Path]:
    if path.parent.name != "checkpoints":
        run = RunDirectory.open(path)
        latest = run.latest()
        if latest is None:
            raise RequestError("the run has no complete checkpoint", str(path), "train it first, or resume it")
        return run, latest
    run = RunDirectory.open(path.parent.parent)
    if path.resolve() not in [good.resolve() for good in run.checkpoints()]:
        broken = {other.name: why for other, why in run.broken_checkpoints()}
        reason = broken.get(path.name, "it does not exist")
        names = ", ".join(good.name for good in run.checkpoints()) or "none"
        raise RequestError(f"{path.name} is no complete checkpoint: {reason}", str(path), f"complete ones: {names}")
    return run, path
