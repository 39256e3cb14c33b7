"""If the tasks of a run are a finite data set, the prompts that it will use are measured before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.compose.config import validation_environment
from ..rollout.room import require_room
from ..rollout.template import Template
from .networks.models import load_tokenizer
from .networks.prepare import prepare_model

if TYPE_CHECKING:
    from ...core.compose.experiment import Experiment


def require_rooms(experiment: Experiment) -> None:
    """Measure the prompts of training and of validation; nothing is loaded if ``tasks`` is ``None``.

    Raises:
        RequestError: a prompt leaves no room for a turn, or the data set, the model's name or its tokenizer is wrong.
    """
    training = experiment.environment.component
    rollout = experiment.rollout
    validation = experiment.validation
    if training.tasks is None:
        return
    template = Template(load_tokenizer(prepare_model(experiment)), rollout.think)
    seeds = range(rollout.seed, rollout.seed + experiment.trainer.steps * rollout.groups)
    require_room(training, rollout, template, seeds)
    if validation.every:
        seeds = range(validation.seed, validation.seed + validation.groups)
        require_room(validation_environment(experiment), rollout, template, seeds, "validation.environment")
