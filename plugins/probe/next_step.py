"""The step that is predicted is the run's own next step, but for what the configuration changes.

What the configuration leaves open is filled in here: from the run that wrote the checkpoint, or, where no run of this
package did, with Dr. GRPO as the research code had it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ...core.compose.combinations import learns
from ...core.compose.converter import make_converter, structure_component
from ...core.compose.named import Named
from ...core.compose.problems import Invalid, Problem
from ...core.registry import registry
from .config import OWN_WEIGHTINGS, PolicyGradient, ProbeConfig
from .estimation.update import aggregation
from .own_run import OwnRun
from .read_config import ConfigError

HAD = frozenset({"values", "greedy_rewards", "rewards_by_name", "logprobs", "entropies"})
"""Needs of an advantage estimator, beside rewards and groups, that the probe can meet where the run can."""


def with_step(config: ProbeConfig, run: OwnRun | None) -> ProbeConfig:
    """Return the configuration with every part of the step filled in: ``policy_gradient`` and ``weighting_mode``.

    Raises:
        ConfigError: the parts do not go together, or need what the checkpoint does not have.
    """
    configured = config.policy_gradient
    default = _of_run(run) if run is not None else _dr_grpo()
    values = {field.name: getattr(configured, field.name) for field in attrs.fields(PolicyGradient)}
    gradient = attrs.evolve(default, **{name: value for name, value in values.items() if value is not None})
    if problems := list(_problems(config, gradient, run)):
        raise ConfigError(problems, "")
    if not gradient.kl_coef:
        gradient = attrs.evolve(gradient, kl=None)
    if config.direction != "adamw":
        gradient = attrs.evolve(gradient, max_grad_norm=0.0)
    work = config.probe_rework
    weighting = work.weighting_mode or _weighting(run)
    return attrs.evolve(config, policy_gradient=gradient, probe_rework=attrs.evolve(work, weighting_mode=weighting))


def objective(config: ProbeConfig) -> list[str]:
    """Return lines that say what a step minimises, for a configuration that :func:`with_step` has filled in."""
    gradient, weighting = config.policy_gradient, config.probe_rework.weighting_mode
    loss = f"{gradient.policy_loss}, advantage {gradient.advantage}, tokens weighted by {weighting}"
    terms = []
    if gradient.entropy_coeff:
        terms.append(f"entropy bonus {gradient.entropy_coeff:g}")
    if gradient.kl is not None:
        weighed = "" if gradient.kl_weight == "none" else f", weight {gradient.kl_weight}"
        terms.append(f"{gradient.kl_coef:g} times KL {gradient.kl} in the {gradient.kl_placement}{weighed}")
    if gradient.soft_advantage_reweight:
        terms.append("advantages weighted by the spread of their group")
    if gradient.zero_task_advantage:
        terms.append("all task advantages 0")
    return [loss, *terms] if terms else [loss, "neither KL nor entropy term"]


def step_lines(step: Mapping[str, Any]) -> list[str]:
    """Return what :meth:`.session.Session.predicted_step` says, as lines of text."""
    return [
        f"{step['optimizer']}, learning rate {step['learning_rate']}, {step['clipping']}",
        "; ".join(step["loss"]),
        step["said_by"],
        *(f"not in it: {what}" for what in step["left_out"]),
    ]


def chosen(config: ProbeConfig) -> list[str]:
    """Return the keys of the step that a configuration itself gives, before it is filled in."""
    gradient = config.policy_gradient
    keys = [f"policy_gradient.{f.name}" for f in attrs.fields(PolicyGradient) if getattr(gradient, f.name) is not None]
    if config.probe_rework.weighting_mode is not None:
        keys.append("probe_rework.weighting_mode")
    return keys


def left_out(config: ProbeConfig, run: OwnRun) -> Iterator[str]:
    """Yield what the run's next training step does beside or instead of the step that is predicted."""
    experiment, trainer = run.experiment, run.experiment.trainer
    rows = experiment.rollout.groups * experiment.rollout.group_size
    # with a row for each turn there are more rows than episodes, so that this is the least
    steps = trainer.epochs * math.ceil(rows / trainer.mini_batch)
    batches, critic = config.batch_config, experiment.critic
    needs_values = "values" in experiment.advantage.needs
    if steps > 1:
        yield f"the run makes {steps} or more optimizer steps of a batch; predicted is one, on all of U"
    if (experiment.rollout.groups, experiment.rollout.group_size) != (batches.B_U, batches.G):
        size = f"{experiment.rollout.groups} x {experiment.rollout.group_size}"
        yield f"a batch of the run has {size} episodes; U has {batches.B_U} x {batches.G}"
    if not experiment.filter.select.component.keeps_all:
        yield f"the run's filter {experiment.filter.select} is not applied: all groups of U train"
    if not experiment.filter.episodes.component.keeps_all:
        yield f"the run's filter of episodes {experiment.filter.episodes} is not applied: all episodes of U train"
    if batches.dataset_name is not None and not experiment.reward.shaping.component.idle:
        yield f"the run's reward shaping {experiment.reward.shaping} is not applied to the data set's rewards"
    controller = experiment.entropy.controller
    if not controller.component.idle:
        yield f"the entropy controller {controller} is not told of U: its coefficient is the one that it has reached"
    if critic is not None and run.trains_critic_alone:
        yield f"until step {critic.policy_after} the run trains its critic alone, and no policy loss moves the trunk"
    if critic is not None and needs_values and critic.shared and not critic.detach:
        yield "the value loss, which moves the trunk that policy and critic share, is not in it"
    if not experiment.correction.component.idle:
        yield f"the correction {experiment.correction} weighs nothing: here the policy itself samples"
    if experiment.model.lora is not None and experiment.model.lora.dropout:
        yield f"the run drops out {experiment.model.lora.dropout:g} of the adapter's inputs; here nothing is"


def what_was_learnt(config: ProbeConfig, run: OwnRun | None) -> Iterator[str]:
    """Yield that the advantage estimator begins anew, where it learns and the checkpoint's run had none of its kind."""
    named: Any = config.policy_gradient.advantage
    if learns(named) and (run is None or named != run.experiment.advantage):
        yield f"the advantage {named} learns from step to step, and begins anew: the checkpoint has no state of it"


def _of_run(run: OwnRun) -> PolicyGradient:
    experiment = run.experiment
    return PolicyGradient(
        advantage=experiment.advantage,
        policy_loss=experiment.policy_loss,
        kl=experiment.kl.estimator,
        kl_coef=run.kl_coef if experiment.kl.coef else 0.0,
        kl_placement=experiment.kl.placement,
        kl_weight=experiment.kl.weight,
        entropy_coeff=run.entropy_coef,
        max_grad_norm=experiment.trainer.grad_clip,
        soft_advantage_reweight=experiment.soft_advantage_reweight,
        zero_task_advantage=experiment.zero_task_advantage,
    )


def _dr_grpo() -> PolicyGradient:
    return PolicyGradient(
        advantage=_named("advantage", "dr_grpo"),
        policy_loss=_named("policy_loss", "ppo"),
        kl=None,
        kl_coef=0.0,
        kl_placement="loss",
        kl_weight="none",
        entropy_coeff=0.0,
        max_grad_norm=0.0,
        soft_advantage_reweight=False,
        zero_task_advantage=False,
    )


def _weighting(run: OwnRun | None) -> str:
    return str(run.experiment.trainer.loss_aggregation) if run is not None else "dr_grpo"


def _named(kind: str, name: str) -> Named:
    return structure_component(make_converter(registry()), registry(), kind, name)


def _problems(config: ProbeConfig, gradient: PolicyGradient, run: OwnRun | None) -> Iterator[Problem]:
    """Yield why a step of these parts cannot be predicted."""
    yield from _weighting_problems(config.probe_rework.weighting_mode)
    named: Any = gradient.advantage
    key = "policy_gradient.advantage"
    needs: frozenset[str] = named.needs
    fix = "choose one that needs neither, such as dr_grpo, grpo or rloo"
    has_critic = run is not None and (run.checkpoint / "critic").is_dir()
    if "values" in needs and not has_critic:
        yield Problem("needs values, and the checkpoint has no critic", key, named.name, fix)
    if "greedy_rewards" in needs and config.batch_config.dataset_name is not None:
        yield Problem("needs greedy rewards, which are played in environments only", key, named.name, fix)
    environment = config.batch_config.environment
    names = environment.component.reward_names if environment is not None else ()
    if "rewards_by_name" in needs and len(names) < 2:
        yield Problem("compares several rewards, which only environments name", key, named.name, "choose grpo")
    if unknown := sorted(needs - HAD - {"groups", "turns"}):
        lacking = " and ".join(unknown).replace("_", " ")
        yield Problem(f"needs {lacking}, which the probe does not give to it", key, named.name, fix)
    if config.batch_config.G == 1 and ("groups" in needs or gradient.soft_advantage_reweight):
        yield Problem("compares the responses to one prompt", key, named.name, "set batch_config.G to 2 or more")
    both = "policy_gradient.kl and policy_gradient.kl_coef"
    if gradient.kl_coef and gradient.kl is None:
        yield Problem("a KL term has an estimator and a coefficient", both, fix="name an estimator, such as low_var_kl")
    if config.policy_gradient.kl is not None and not gradient.kl_coef:
        yield Problem("a KL term has an estimator and a coefficient", both, fix="give a coefficient above 0")


def _weighting_problems(weighting: str | None) -> Iterator[Problem]:
    if weighting is None or weighting in OWN_WEIGHTINGS:
        return
    try:
        aggregation(weighting)
    except Invalid as error:
        fix = f"one of {', '.join((*OWN_WEIGHTINGS, *registry().names('loss_aggregation')))}"
        for problem in error.problems:
            yield attrs.evolve(problem.under("probe_rework.weighting_mode"), fix=problem.fix or fix)
