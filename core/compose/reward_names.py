"""What an experiment may ask of an environment that gives several rewards, each with a name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from ..components import Environment
from ..errors import nearest
from .experiment import Experiment
from .named import Named
from .problems import Problem

FORMAT_PENALTY = "format_penalty"
"""The name under which the format penalties are a reward beside those of the environment."""


def reward_problems(experiment: Experiment, wants: Iterable[tuple[str, Named, frozenset[str]]]) -> Iterator[Problem]:
    """Yield why the names, their weights, or a component that reads rewards by their names cannot be had.

    Args:
        experiment: a composed experiment.
        wants: the components that take part, with their dotted keys and needs.
    """
    names, weights = experiment.environment.component.reward_names, experiment.reward.weights
    name = experiment.environment.name
    if reason := unusable(names):
        yield Problem(f"{name}: reward_names {reason}", "environment", fix="a mistake in its plugin")
        return
    own = experiment.environment.component.reward_weights
    if odd := [each for each, weight in own.items() if each not in names or not math.isfinite(weight)]:
        reason = f"holds {odd[0]!r}: {own[odd[0]]!r}, which is no finite weight of one of its rewards"
        yield Problem(f"{name}: reward_weights {reason}", "environment", fix="a mistake in its plugin")
        return
    for each in weights:
        if each not in names:
            has = f"has no reward {each!r}" if names else "has one reward, without a name"
            fix = nearest(each, names) if names else "leave it out"
            yield Problem(f"is a weight, and the environment {name} {has}", f"reward.weights.{each}", fix=fix)
    weighed = [each for each in names if {**own, **weights}.get(each, 1.0)]
    if names and not weighed:
        yield Problem("weighs every reward with 0, so that there is nothing to learn from", "reward.weights")
    for key, named, needed in wants:
        if "rewards_by_name" not in needed:
            continue
        if len(weighed) < 2:
            given = f"has {len(weighed)} with a weight other than 0" if names else "has only one"
            reason = f"{named.name} compares several rewards, and the environment {name} {given}"
            yield Problem(reason, key, fix="choose grpo, or an environment with several rewards")
        if named.kind == "advantage":
            yield from _of_estimator(experiment, named.name)


def _of_estimator(experiment: Experiment, name: str) -> Iterator[Problem]:
    """Yield which settings of their sum have no meaning for an estimator that reads rewards by their names."""
    reward, kl = experiment.reward, experiment.kl
    apart = f"and {name} reads each reward by itself, as it was earned"
    if not reward.shaping.component.idle:
        reason = f"shapes the sum of an episode's rewards, {apart}"
        yield Problem(reason, "reward.shaping", reward.shaping.name, "set it to none")
    if reward.normalization != "identity":
        reason = f"normalises the sum of an episode's rewards, {apart}"
        yield Problem(reason, "reward.normalization", reward.normalization, "set it to identity")
    if reward.placement != "episode":
        reason = f"gives each turn a reward of its own, and {name} compares those of whole episodes"
        yield Problem(reason, "reward.placement", reward.placement, "set it to episode")
    if kl.placement == "reward" and kl.coef > 0:
        reason = f"takes the KL off the sum of the rewards, {apart}"
        yield Problem(reason, "kl.placement", kl.placement, "set it to loss")


def weights_of(environment: Environment, given: Mapping[str, float]) -> dict[str, float]:
    """Return the weights of an environment's rewards that are not 1: those that are given, and else its own."""
    return {**environment.reward_weights, **given}


def unusable(names: object) -> str:
    """Say what is wrong about the names that an environment declares; nothing if they can be used."""
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        return f"must be a tuple of texts, not {names!r}"
    if odd := [name for name in names if not name.isidentifier()]:
        return f"holds {odd[0]!r}: a name is made of letters, digits and underscores"
    if twice := [name for name in names if names.count(name) > 1]:
        return f"holds {twice[0]!r} twice"
    return f"holds {FORMAT_PENALTY!r}, which is the run's own" if FORMAT_PENALTY in names else ""
