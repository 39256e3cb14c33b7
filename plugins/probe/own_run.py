"""Reading a configuration for a checkpoint: what a template says gives way to the run that wrote the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from .checkpoint.files import run_directory
from .read_config import TEMPLATES, Read, find_template, read_config

OF_RUN = ("batch_config.dataset_name", "generation.temperature", "generation.max_new_tokens", "learning_rate")
"""Keys that ``null`` leaves to the run that wrote the checkpoint."""


def read_for_checkpoint(source: str | Path, overrides: Mapping[str, Any]) -> Read:
    """The configuration of a file or template, with values of dotted keys put over it.

    Templates know nothing of the checkpoint. If ``checkpoint.checkpoint_path`` among the overrides was written by a run
    of this package, data, sampling, learning rate and base model are that run's, unless the overrides say otherwise. A
    file is taken as it stands.

    Raises:
        ConfigError: not all of it makes sense.
    """
    left = _left_to_run(overrides) if find_template(Path(source)).parent == TEMPLATES else ()
    if not left:
        return read_config(source, overrides)
    base = {"checkpoint.model_config_path": "", "checkpoint.backbone": None}
    read = read_config(source, {**dict.fromkeys(left), **base, **overrides})
    note = f"{', '.join(left)} of the template: the run that wrote the checkpoint has its own"
    return attrs.evolve(read, ignored=(*read.ignored, note))


def _left_to_run(overrides: Mapping[str, Any]) -> tuple[str, ...]:
    checkpoint = overrides.get("checkpoint.checkpoint_path")
    if not checkpoint or run_directory(Path(str(checkpoint))) is None:
        return ()
    chosen = overrides.get("batch_config.dataset_name") or overrides.get("batch_config.environment")
    return tuple(key for key in (("learning_rate",) if chosen else OF_RUN) if key not in overrides)
