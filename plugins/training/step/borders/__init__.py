"""Components of a training step are called through wrappers here, which check shape, dtype and finiteness of results.

They also check that a component has not changed the tensors that it was given, since others compute with them later.

Without these checks, a loss that returns one number instead of one per token, or a NaN off the mask, would train
unnoticed. What is computed on whole batches on the CPU is checked at every call. What runs inside a forward and
backward pass is checked at its first call in a run, since reading numbers from a GPU makes it wait.
"""

from __future__ import annotations

import attrs

from .....core.compose.experiment import Experiment
from .....core.compose.named import Named
from ....rollout.borders import CHECKED as OF_ROLLOUTS
from .checks import CHECKED, RESERVED, Checked, changes, contents, tensors
from .controllers import CheckedController, CheckedEntropyController
from .credit import CheckedAdvantage, CheckedAdvantageSession, CheckedShaping
from .filters import CheckedEpisodeFilter, CheckedFilter, CheckedMetric
from .losses import CheckedAggregation, CheckedCorrection, CheckedKl, CheckedLoss

__all__ = [
    "RESERVED",
    "CheckedAdvantage",
    "CheckedAdvantageSession",
    "CheckedAggregation",
    "CheckedController",
    "CheckedCorrection",
    "CheckedEntropyController",
    "CheckedEpisodeFilter",
    "CheckedFilter",
    "CheckedKl",
    "CheckedLoss",
    "CheckedMetric",
    "CheckedShaping",
    "changes",
    "contents",
    "guarded",
    "tensors",
]

CHECKED |= {
    **OF_ROLLOUTS,
    "rollout_filter": CheckedFilter,
    "episode_filter": CheckedEpisodeFilter,
    "group_metric": CheckedMetric,
    "reward_shaping": CheckedShaping,
    "kl": CheckedKl,
    "kl_controller": CheckedController,
    "entropy_controller": CheckedEntropyController,
    "advantage": CheckedAdvantage,
    "policy_loss": CheckedLoss,
    "sampler_correction": CheckedCorrection,
    "loss_aggregation": CheckedAggregation,
}


def guarded(experiment: Experiment) -> Experiment:
    """Return the same experiment, in which every component of the training step is checked.

    A component that breaks its contract, or raises, ends the run with an error that names it.
    """
    select = _with(experiment.filter.select, CheckedFilter)
    metric = _with(experiment.filter.metric, CheckedMetric)
    episodes = _with(experiment.filter.episodes, CheckedEpisodeFilter)
    shaping = _with(experiment.reward.shaping, CheckedShaping)
    estimator = _with(experiment.kl.estimator, CheckedKl)
    controller = _with(experiment.kl.controller, CheckedController)
    aggregation = _with(experiment.trainer.loss_aggregation, CheckedAggregation)
    return attrs.evolve(
        experiment,
        filter=attrs.evolve(experiment.filter, select=select, metric=metric, episodes=episodes),
        reward=attrs.evolve(experiment.reward, shaping=shaping),
        kl=attrs.evolve(experiment.kl, estimator=estimator, controller=controller),
        entropy=attrs.evolve(
            experiment.entropy, controller=_with(experiment.entropy.controller, CheckedEntropyController)
        ),
        advantage=_with(experiment.advantage, CheckedAdvantage),
        policy_loss=_with(experiment.policy_loss, CheckedLoss),
        correction=_with(experiment.correction, CheckedCorrection),
        trainer=attrs.evolve(experiment.trainer, loss_aggregation=aggregation),
    )


def _with(named: Named, checked: type[Checked]) -> Named:
    return named if isinstance(named.component, Checked) else attrs.evolve(named, component=checked(named))
