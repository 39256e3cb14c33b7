"""What a run was made with: plugins, seeds, versions and hardware, so that a result can be traced to its causes."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ..compose.combinations import components
from ..compose.experiment import Experiment
from ..compose.named import Named

if TYPE_CHECKING:
    from ..registry import Registry

LIBRARIES = (
    "uncollapse", "torch", "transformers", "peft", "deepspeed", "vllm", "ray", "wandb", "safetensors", "numpy",
    "triton", "attrs", "cattrs", "pluggy", "ruamel.yaml",
)  # fmt: skip
"""Distributions whose versions can change a result, or how it is read."""


def build_manifest(experiment: Experiment, registry: Registry, gpus: Iterable[str] = ()) -> dict[str, Any]:
    """The manifest of a run that is about to start here; ``gpus`` are the names of its accelerators."""
    return {
        "components": {key: _origin(registry, named) for key, named in components(experiment)},
        "plugins": [
            {
                "name": plugin.name,
                "module": plugin.module,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "sha256": plugin.source_sha256,
                "status": plugin.status,
            }
            for plugin in registry.plugins
        ],
        "seeds": {
            "seed": experiment.seed,
            "rollout.seed": experiment.rollout.seed,
            "validation.seed": experiment.validation.seed,
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {
            "machine": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "gpus": list(gpus),
        },
    }


def _origin(registry: Registry, named: Named) -> dict[str, str]:
    """Which plugin a component came from, and the hash of the file that its class is in."""
    description = registry.describe(named.kind, named.name)
    return {
        "name": named.name,
        "plugin": description.plugin,
        "distribution": description.distribution,
        "version": description.version,
        "sha256": description.source_sha256,
    }


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
