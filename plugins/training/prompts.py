"""If the tasks of a run are a finite data set, the prompts that it will use are measured before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.compose.config import validation_environment
from ..rollout.dialogue import CheckedDialogue
from ..rollout.foreseen import training_seeds
from ..rollout.room import require_room
from ..rollout.template import Template
from .networks.models import load_tokenizer
from .networks.prepare import prepare_model

if TYPE_CHECKING:
    from ...core.compose.experiment import Experiment

MEASURED = 10_000
"""Tasks of a data set that are measured, the first ones, where nobody knows which of them a run will use."""


def require_rooms(experiment: Experiment) -> None:
    """Measure the prompts of training and of validation; nothing is loaded if ``tasks`` is ``None``.

    Where it is not known which tasks a run will use, the first :data:`MEASURED` of the data set are measured.

    Raises:
        RequestError: a prompt leaves no room for a turn, or the data set, the model's name or its tokenizer is wrong.
    """
    training = experiment.environment.component
    rollout = experiment.rollout
    validation = experiment.validation
    if training.tasks is None:
        return
    template = Template(
        load_tokenizer(prepare_model(experiment, warmed=False)), CheckedDialogue(experiment.dialogue), rollout.think
    )
    seeds = training_seeds(experiment)
    require_room(training, rollout, template, range(min(training.tasks, MEASURED)) if seeds is None else seeds)
    if validation.every:
        seeds = range(validation.seed, validation.seed + validation.groups)
        require_room(validation_environment(experiment), rollout, template, seeds, "validation.environment")
