"""The configuration that a probe really uses: what was left open is filled in, so that it reads back to the same."""

from __future__ import annotations

from typing import Any

import attrs

from ...core.compose.converter import make_converter, structure_component
from ...core.compose.experiment import Experiment, Named, Reward, Rollout
from ...core.errors import RequestError
from ...core.registry import registry
from ..training.step.stages import lr_scale
from .checkpoint.adam_state import AdamState
from .config import ProbeConfig
from .next_step import with_step
from .own_run import OwnRun

MAX_TOKENS = 256
"""Of a response, where neither the configuration nor a run says how many."""


def used(config: ProbeConfig, run: OwnRun | None) -> ProbeConfig:
    """The configuration with what the run that wrote the checkpoint says, and else the defaults, in the place of nulls.

    The learning rate, which may hang on the optimizer's state, is left as it is.

    Raises:
        ConfigError: the step cannot be predicted.
        RequestError: nothing says what to sample.
    """
    batches, generation = config.batch_config, config.generation
    critic = run.experiment.critic if run is not None else None
    if run is not None and critic is not None and run.trains_critic_alone and not critic.shared:
        raise RequestError(
            f"until step {critic.policy_after} the run trains its critic alone: its policy has not moved yet",
            str(run.checkpoint),
            "give a checkpoint of a later step",
        )
    plays_own = run is not None and batches.dataset_name is None and batches.environment is None
    rollout = config.rollout or (run.experiment.rollout if run is not None else _default(Rollout))
    if batches.dataset_name is None and batches.environment is None:
        if run is None:
            raise RequestError(
                "nothing says what to sample, and the checkpoint belongs to no run of this package",
                "batch_config",
                "give batch_config.dataset_name or batch_config.environment",
            )
        batches = attrs.evolve(batches, environment=run.experiment.environment)
    max_tokens = rollout.max_tokens if plays_own else MAX_TOKENS
    plugins = run.experiment.plugins if run is not None else ()
    filled = attrs.evolve(
        config,
        batch_config=batches,
        rollout=rollout,
        dialogue=config.dialogue or (run.experiment.dialogue if run is not None else _default_dialogue()),
        reward=config.reward or (run.experiment.reward if run is not None else _default(Reward)),
        generation=attrs.evolve(
            generation,
            temperature=generation.temperature or (rollout.temperature if plays_own else 1.0),
            max_new_tokens=generation.max_new_tokens or max_tokens,
        ),
        plugins=tuple(dict.fromkeys((*config.plugins, *plugins))),
    )
    return with_step(filled, run)


def learning_rate(config: ProbeConfig, adam: AdamState, run: OwnRun | None, spare: bool) -> tuple[float, str]:
    """The learning rate (eta) of the step, and who says so.

    Args:
        spare: the configuration's rate is a template's, and gives way to one that the checkpoint has recorded.

    Raises:
        RequestError: nobody does.
    """
    if config.learning_rate is not None and not spare:
        return config.learning_rate, "as the configuration says"
    if run is not None:
        trainer = run.experiment.trainer
        base = adam.base_lr or trainer.lr
        share = lr_scale(trainer.lr_schedule, trainer.warmup_steps, run.step, run.steps)
        if base and share:
            return (
                base * share,
                "the run's own" if share == 1 else f"the run's own, {share:.3g} of {base:g} by schedule",
            )
        if base:
            return base, "the run's own before its schedule, which has ended at 0"
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
    """A section with all of its defaults; ``section()`` would leave names where components belong."""
    return make_converter(registry()).structure({}, section)
