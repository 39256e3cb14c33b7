"""What a configuration leaves open is filled in, so that the result reads back to the same probe."""

from __future__ import annotations

from typing import Any

import attrs

from ...core.compose.converter import make_converter, structure_component
from ...core.compose.experiment import Experiment, Reward, Rollout
from ...core.compose.named import Named
from ...core.errors import RequestError
from ...core.registry import registry
from ..training.step.stages import lr_scale
from .checkpoint.adam_state import AdamState
from .config import ProbeConfig
from .next_step import with_step
from .own_run import OwnRun

MAX_TOKENS = 256
"""Largest number of tokens of a response, where neither the configuration nor a run says it."""


def used(config: ProbeConfig, run: OwnRun | None) -> ProbeConfig:
    """Return the configuration with values in the place of nulls: of the run that wrote the checkpoint, else defaults.

    The learning rate, which may depend on the optimizer's state, is left as it is.

    Raises:
        ConfigError: the step cannot be predicted.
        RequestError: nothing says what to sample.
    """
    _refuse_still_policy(run)
    batches, generation = config.batch_config, config.generation
    nothing_chosen = batches.dataset_name is None and batches.environment is None
    if nothing_chosen and run is None:
        raise RequestError(
            "nothing says what to sample, and the checkpoint belongs to no run of this package",
            "batch_config",
            "give batch_config.dataset_name or batch_config.environment",
        )
    plays_run = run is not None and nothing_chosen
    if run is not None:
        rollout = config.rollout or run.experiment.rollout
        dialogue = config.dialogue or run.experiment.dialogue
        reward = config.reward or run.experiment.reward
        plugins = (*config.plugins, *run.experiment.plugins)
        if nothing_chosen:
            batches = attrs.evolve(batches, environment=run.experiment.environment)
    else:
        rollout = config.rollout or _default(Rollout)
        dialogue = config.dialogue or _default_dialogue()
        reward = config.reward or _default(Reward)
        plugins = config.plugins
    filled = attrs.evolve(
        config,
        batch_config=batches,
        rollout=rollout,
        dialogue=dialogue,
        reward=reward,
        # the run's limits fit its own environment only
        generation=attrs.evolve(
            generation,
            temperature=generation.temperature or (rollout.temperature if plays_run else 1.0),
            max_new_tokens=generation.max_new_tokens or (rollout.max_tokens if plays_run else MAX_TOKENS),
        ),
        plugins=tuple(dict.fromkeys(plugins)),
    )
    return with_step(filled, run)


def _refuse_still_policy(run: OwnRun | None) -> None:
    """Raise RequestError if the run's next step does not move the policy, because its critic trains alone."""
    critic = run.experiment.critic if run is not None else None
    if run is not None and critic is not None and run.trains_critic_alone and not critic.shared:
        raise RequestError(
            f"until step {critic.policy_after} the run trains its critic alone: its policy has not moved yet",
            str(run.checkpoint),
            "give a checkpoint of a later step",
        )


def learning_rate(config: ProbeConfig, adam: AdamState, run: OwnRun | None, spare: bool) -> tuple[float, str]:
    """Return the learning rate (eta) of the step, and who says so.

    Args:
        spare: the configuration's rate is a template's, and gives way to one that the checkpoint has recorded.

    Raises:
        RequestError: neither the configuration, the run nor the checkpoint has a rate.
    """
    if config.learning_rate is not None and not spare:
        return config.learning_rate, "as the configuration says"
    if run is not None:
        trainer = run.experiment.trainer
        base = adam.base_lr or trainer.lr
        share = lr_scale(trainer.lr_schedule, trainer.warmup_steps, run.step, run.steps)
        if base and share:
            part = "" if share == 1 else f", {share:.3g} of {base:g} by schedule"
            return base * share, f"the run's own{part}"
        if base:
            return base, "the run's own before its schedule, which has ended at 0"
    # without a run the checkpoint's rate is after its schedule, which is what its next step has
    if adam.lr:
        decayed = adam.base_lr is not None and adam.base_lr != adam.lr
        return adam.lr, "as the checkpoint has it" + (f", from {adam.base_lr:g} by its schedule" if decayed else "")
    if adam.base_lr:
        return adam.base_lr, "as the checkpoint has it before its schedule, which has ended at 0"
    if config.learning_rate is not None:
        return config.learning_rate, "as the template says: the checkpoint has recorded none"
    several = f", but several: {', '.join(f'{rate:g}' for rate in adam.rates)}" if len(adam.rates) > 1 else ""
    raise RequestError(
        f"the learning rate is not given, and the checkpoint has recorded none that is positive{several}",
        "learning_rate",
        "give the learning rate of the step, such as 2e-6",
    )


def _default_dialogue() -> Named:
    name = attrs.fields(Experiment).dialogue.default
    return structure_component(make_converter(registry()), registry(), "dialogue", name)


def _default(section: Any) -> Any:
    """Return a section with all of its defaults; ``section()`` would leave names where components belong."""
    return make_converter(registry()).structure({}, section)
