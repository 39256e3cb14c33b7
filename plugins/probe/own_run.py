"""A checkpoint may belong to a run of this package, which fills in what a configuration for it leaves open.

A checkpoint of another trainer has no such run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from ...core.compose.experiment import Experiment
from ...core.errors import RequestError
from ...core.runs.directory import RunDirectory
from ...core.runs.trust import experiment_of
from .checkpoint.files import find_checkpoint, read_json, run_directory
from .read_config import TEMPLATES, Read, find_template, read_config

WEIGHTING = "probe_rework.weighting_mode"
OF_STEP = ("learning_rate", WEIGHTING)
OF_RUN = ("batch_config.dataset_name", "generation.temperature", "generation.max_new_tokens", *OF_STEP)
"""Keys of templates that are left to the run that wrote the checkpoint, by ``null``."""


@attrs.frozen(eq=False)
class OwnRun:
    """An object of this class is the run that wrote a checkpoint, as it was after the checkpoint's step."""

    directory: Path
    experiment: Experiment
    checkpoint: Path
    state: Mapping[str, Any]
    """Content of the checkpoint's ``state.json``."""

    @property
    def step(self) -> int:
        """Number of training steps that are done."""
        return int(self.state.get("step", 0))

    @property
    def steps(self) -> int:
        """Number of training steps as it was planned then; a run that was trained further has more now."""
        return int(self.state.get("steps", self.experiment.trainer.steps))

    @property
    def trains_critic_alone(self) -> bool:
        """Whether the next training step leaves the policy to its critic's losses."""
        critic = self.experiment.critic
        needs_values = "values" in self.experiment.advantage.needs
        return critic is not None and needs_values and self.step < critic.policy_after

    @cached_property
    def kl_coef(self) -> float:
        """Coefficient of the KL term that the run's controller has reached."""
        settings = self.experiment.kl
        controller = settings.controller.component.start(settings.coef)
        if (saved := self.state.get("kl_controller")) is not None:
            controller.load_state_dict(saved)
        return float(controller.coef)

    @property
    def entropy_coef(self) -> float:
        """Coefficient of the entropy bonus that the run's controller has reached."""
        settings = self.experiment.entropy
        session = settings.controller.component.start(settings.coef, self.experiment.trainer.steps)
        if (saved := self.state.get("entropy_controller")) is not None:
            session.load_state_dict(saved)
        return float(session.coef)


def own_run(path: str | Path) -> OwnRun | None:
    """Return the run that wrote the checkpoint at ``path``; ``None`` if no run of this package did.

    Raises:
        RequestError: the run's configuration is damaged, or the checkpoint is.
    """
    directory = run_directory(Path(path))
    if directory is None:
        return None
    config = RunDirectory(directory).read_config()
    if not isinstance(config, Mapping):
        raise RequestError(
            "the run's configuration is no mapping of keys to values",
            str(directory / "config.yaml"),
            "give a checkpoint of another run, or copy it out of this one and give --config",
        )
    checkpoint = find_checkpoint(path).directory
    return OwnRun(
        directory, experiment_of(RunDirectory(directory)), checkpoint, read_json(checkpoint / "state.json") or {}
    )


def read_for_checkpoint(source: str | Path, overrides: Mapping[str, Any], checkpoint: str | Path | None = None) -> Read:
    """Read the configuration of a file or template for one checkpoint, with values of dotted keys put over it.

    Templates are written without any checkpoint: data, sampling, learning rate, weighting and base model of a run of
    this package are that run's, and the learning rate of any other checkpoint is the one that it has recorded, unless
    the overrides say otherwise. A file is taken as it stands.

    Args:
        checkpoint: the checkpoint; by default that of the overrides, or else of the file.

    Raises:
        ConfigError: not all of it makes sense.
    """
    changes = {**overrides} if checkpoint is None else {**overrides, "checkpoint.checkpoint_path": str(checkpoint)}
    if find_template(Path(source)).parent != TEMPLATES:
        return read_config(source, changes)
    path = changes.get("checkpoint.checkpoint_path")
    of_a_run = bool(path) and run_directory(Path(str(path))) is not None
    if not of_a_run:
        read = read_config(source, {WEIGHTING: None, **changes} if path else changes)
        return attrs.evolve(read, spare_rate="learning_rate" not in changes)
    left = _left_to_run(changes)
    # the run has the base model too, and a template's would contradict it
    base = {"checkpoint.model_config_path": "", "checkpoint.backbone": None}
    read = read_config(source, {**dict.fromkeys(left), **base, **changes})
    if not left:
        return read
    note = f"{', '.join(left)} of the template: the run that wrote the checkpoint has its own"
    return attrs.evolve(read, ignored=(*read.ignored, note))


def _left_to_run(overrides: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = overrides.get("batch_config.dataset_name") or overrides.get("batch_config.environment")
    return tuple(key for key in (OF_STEP if chosen else OF_RUN) if key not in overrides)
