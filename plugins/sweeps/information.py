"""Sweeps that compare what keeps a policy from collapsing measure mutual information, as RAGEN-2 does in every run."""

from __future__ import annotations

from typing import Any

from ...core.compose.experiment import Experiment
from ...core.registry import registry

INFORMATION = "mutual_information"
"""The detector that RAGEN-2 runs in all of its experiments, with the defaults of its ``base.yaml``."""


def measuring(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    """Return the setting that has mutual information measured, beside what the experiment's own detectors do.

    An experiment that measures it already keeps its own settings. Where it cannot be measured there is no setting, and
    a notice that gives the reason.
    """
    if INFORMATION not in registry().names("collapse"):
        return {}, [f"mutual information is not measured: no detector {INFORMATION} is installed"]
    if any(named.name == INFORMATION for named in experiment.collapse):
        return {}, []
    if reasons := list(registry().create("collapse", INFORMATION).check(experiment)):
        return {}, [f"mutual information is not measured: {INFORMATION} {reasons[0]}"]
    return {"collapse": [*map(str, experiment.collapse), INFORMATION]}, []
