"""The laws of collapse detectors say what they measure and judge, and that a resumed one judges the same."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...core.components import Scores, Verdict
from ...core.compose.config import compose
from ...core.compose.experiment import Experiment
from ...core.compose.named import Named
from ...core.errors import RequestError
from ...plugins.training.step.detectors import Detectors
from .. import samples
from ..problems import NotExercisedError, laws, require
from .kl import through_json

STEPS = 12
MISSING = (None, frozenset({"actor/entropy"}), frozenset({"validation/success", "rollout/in_group_reward_std"}))
"""Metrics that a run may lack."""


class UniformScorer:
    """A scorer that finds every token of a vocabulary of 100 as likely as any other."""

    NATS = math.log(100)

    def __call__(self, batch: Any) -> Scores:
        logprobs_B_T = torch.where(batch.mask, -self.NATS, 0.0)
        return Scores(logprobs=logprobs_B_T, entropies=-logprobs_B_T, second_moments=logprobs_B_T**2)

    def pairwise(self, prompts: Any, continuations: Any, *_: Any, **__: Any) -> Tensor:
        nats = torch.tensor([-self.NATS * len(continuation) for continuation in continuations])
        return nats.expand(len(prompts), -1).clone()


def recorded(step: int, collapses: bool = True) -> dict[str, float]:
    """Make the metrics of a step of a run that learns for five steps and then collapses."""
    dead = collapses and step > 5
    entropy, success = (0.01, 0.0) if dead else (1.2 - 0.05 * step, 0.3 + 0.02 * step)
    return {
        "actor/entropy": entropy,
        "actor/grad_norm": 0.0 if dead else 0.5,
        "actor/kl": 3.0 if dead else 0.01,
        "actor/ppo_kl": 0.5 if dead else 0.001,
        "actor/lr": 1e-6,
        "actor/pg_loss": 0.0 if dead else 0.02,
        "mismatch/k1": 0.2 if dead else 1e-4,
        "mismatch/abs": 0.5 if dead else 1e-3,
        "train/reward": -1.0 if dead else 0.2,
        "rollout/in_group_reward_std": 0.0 if dead else 0.3,
        "rollout/filter_kept_count": 0.0 if dead else 4.0,
        "train/response_length": 1.0 if dead else 20.0,
        "train/turns": 1.0,
        "train/share_of_named_actions_known": 0.0 if dead else 0.9,
        "train/share_of_turns_invalid": 1.0 if dead else 0.1,
        "train/success": success,
        "validation/success": success,
        "validation/reward": success,
        "collapse/first_turn_valid_rate": 1.0,
        "collapse/identical_across_prompts": 1.0 if dead else 0.1,
        "collapse_first_turn_sample/retrieval_above_chance": 0.0 if dead else 0.6,
        "collapse_first_turn_sample/retrieval_above_chance_se": 0.1,
    }


def _started(named: Named) -> Detectors:
    return Detectors([named], context())


def experiment_that_learns() -> Experiment:
    """Compose the built-in experiment ``tiny-sokoban``. Raises NotExercisedError if its plugins are blocked."""
    try:
        return compose("tiny-sokoban")
    except RequestError as error:
        raise NotExercisedError(
            "the experiment tiny-sokoban is not there", error.what, "unblock the plugins"
        ) from error


@functools.cache
def context() -> Any:
    """Make what ``start`` is given: a composed experiment, and a tokenizer that has the sample's tokens."""
    from ...plugins.experiments.tokenizer import build_tokenizer

    tokenizer = build_tokenizer([" ".join(f"w{number}" for number in range(100))])
    return SimpleNamespace(experiment=experiment_that_learns(), tokenizer=tokenizer)


def _has_a_session_of_its_own(named: Named) -> None:
    """A detector starts a CollapseSession, and a new one for each run."""
    apart = _started(named).sessions[named.name] is not _started(named).sessions[named.name]
    require(named, "start", apart, "gave the same session twice: each run has one of its own")


def _measures(named: Named) -> None:
    """A detector measures finite numbers under names of its own and leaves the rollouts as they are."""
    detectors = _started(named)
    for _ in range(3):
        detectors.measure(samples.rollouts(named.needs), UniformScorer())


def _judges(named: Named) -> None:
    """A detector judges logged metrics, also of steps that lack some or that were validated alone."""
    for missing in (frozenset(), *filter(None, MISSING)):
        session = _started(named)
        for step in range(STEPS):
            metrics = {name: value for name, value in recorded(step).items() if name not in missing}
            for verdict in session.judge(step, metrics if step else {"validation/success": 0.3}):
                _fits(named, verdict, step)
    _started(named).judge(1, {})


def _fits(named: Named, verdict: Verdict, step: int) -> None:
    """Require that a verdict has the step in which it was given, and a reason."""
    require(named, "judge", verdict.step == step, f"gave a verdict of step {verdict.step} in step {step}")
    has_reason = isinstance(verdict.reason, str) and bool(verdict.reason)
    require(named, "judge", has_reason, "gave a verdict without a reason")


def _goes_on_from_its_state(named: Named) -> None:
    """A detector that goes on from its state judges as one that was never interrupted."""
    first = _started(named)
    for step in range(1, STEPS):
        second = _started(named)
        second.load_state_dict({named.name: through_json(named, first.state_dict()[named.name])})
        uninterrupted = _verdicts(first, step)
        resumed = _verdicts(second, step)
        same = uninterrupted == resumed
        require(named, "load_state_dict", same, f"judges step {step} otherwise after a resume: {resumed}")


def _verdicts(detectors: Detectors, step: int) -> list[tuple[str, bool]]:
    """Judge a recorded step; return reason and stop of each verdict."""
    return [(verdict.reason, verdict.stop) for verdict in detectors.judge(step, recorded(step))]


LAWS = {"collapse": laws(_has_a_session_of_its_own, _measures, _judges, _goes_on_from_its_state)}
