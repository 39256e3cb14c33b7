"""What the parts of the policy's objective say of each other: the loss, the sampler correction, the token head."""

from __future__ import annotations

from collections.abc import Iterator

from .experiment import Experiment
from .problems import Problem


def objective_problems(experiment: Experiment, needed: frozenset[str]) -> Iterator[Problem]:
    """Yield why the loss, the correction and the head cannot work together; ``needed`` are all needs."""
    yield from _corrected_twice(experiment)
    yield from _rows_and_tokens(experiment)
    head = experiment.model.head
    for missing in sorted(needed & {"second_moments", "collision_probs"} - head.component.gives):
        reason = f"does not compute {missing.replace('_', ' ')}, which the experiment needs"
        yield Problem(reason, "model.head", head.name, "set it to auto")


def _corrected_twice(experiment: Experiment) -> Iterator[Problem]:
    loss, correction = experiment.policy_loss, experiment.correction
    if loss.component.corrects and not correction.component.idle:
        reason = (
            f"{loss.name}: its ratio is already one to the sampler, and correction would weigh every token by that "
            "once more"
        )
        yield Problem(reason, "policy_loss", fix="set correction: none")


def _rows_and_tokens(experiment: Experiment) -> Iterator[Problem]:
    loss, correction = experiment.policy_loss, experiment.correction
    if loss.component.ratio_of == "rows" and not correction.component.idle and correction.component.weighs == "tokens":
        reason = (
            f"weighs single tokens, and {loss.name} has one ratio of the whole row: the two together are the weight of "
            "neither a token nor a row"
        )
        fix = "choose a correction that weighs rows, such as sequence_tis, or none"
        yield Problem(reason, "correction", correction.name, fix)
