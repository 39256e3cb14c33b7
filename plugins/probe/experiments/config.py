"""The configuration of an experiment is made of flags, over a file, over the experiment's template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ....core.compose.problems import Invalid, Problem
from ..config import ProbeConfig
from ..own_run import read_for_checkpoint
from ..read_config import PREDICTION, ConfigError, Read, load, with_alternatives

TEMPLATES = {
    "single": "configs/single_run.yaml",
    "batch-scaling": "configs/batch_scaling.yaml",
    "sanity-check": "configs/sanity_check.yaml",
    "debug": "configs/debug.yaml",
}


def read_experiment(
    experiment: str,
    source: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    truth_only: bool = False,
) -> Read:
    """Read the configuration of an experiment from a file or its template, with values of dotted keys put over it.

    A file that says nothing of sizes or of the number of runs gets the template's; otherwise it stands for itself.
    Templates give way to the run that wrote the checkpoint (:func:`..own_run.read_for_checkpoint`).

    Args:
        truth_only: predict nothing and only measure; estimators of the prediction are left out.

    Raises:
        ConfigError: not all of it makes sense.
    """
    template = TEMPLATES[experiment]
    changes = with_alternatives(overrides or {})
    if source is not None:
        changes = {**_sizes(source, template), **changes}
    if truth_only:
        # what a user asks for is refused, what a template asks for is left out
        _refuse_prediction(changes)
        errors = ("probe_rework.compute_conditional_variance", "probe_rework.compute_vx_vy_variance")
        changes = {**dict.fromkeys(errors, False), **changes, "importance.enabled": True}
    read = read_for_checkpoint(source or template, changes)
    return attrs.evolve(read, config=_without_prediction(read.config)) if truth_only else read


def _refuse_prediction(changes: Mapping[str, Any]) -> None:
    """Raise ConfigError for changes that ask for the opposite of measuring alone."""
    wanted = {"importance.enabled": True, "probe_rework.compute_delta_h1": False}
    fix = "leave it out: nothing is predicted, and the truth is measured"
    asked = [(key, changes[key]) for key in wanted if key in changes and changes[key] is not wanted[key]]
    if asked:
        raise ConfigError([Problem("goes against --no-delta-h1", key, value, fix) for key, value in asked], "")


def _sizes(source: str | Path, template: str) -> dict[str, Any]:
    """Return the template's sizes and number of runs where the file has none."""
    try:
        batches = load(source).get("batch_config", {})
        standard = load(template).get("batch_config", {})
    except Invalid as error:
        raise ConfigError(list(error.problems), str(source)) from error
    if not isinstance(batches, Mapping):
        return {}
    missing = {"runs_per_batch"} - batches.keys()
    if batches.get("B_E") is None and batches.get("B_E_values") is None:
        missing.add("B_E_values")
    return {f"batch_config.{key}": standard[key] for key in missing}


def _without_prediction(config: ProbeConfig) -> ProbeConfig:
    kept = tuple(named for named in config.variance if not named.needs & PREDICTION)
    work = attrs.evolve(config.probe_rework, compute_delta_h1=False)
    return attrs.evolve(config, probe_rework=work, variance=kept)
