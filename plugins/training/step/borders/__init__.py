"""The mathematics of a step, with what its components hand over checked: shape, dtype and finiteness.

What they were given they must not change: others compute with it after them.

A loss that returns one number instead of one per token, or a NaN off the mask, would train in silence. What is computed
on whole batches on the CPU is checked whenever it is handed over; what runs inside a forward and backward pass is
checked at its first call in a run, since every look at a GPU's numbers makes it wait.
"""

from __future__ import annotations

import attrs

from .....core.compose.experiment import Experiment, Named
from ....rollout.borders import CHECKED as OF_ROLLOUTS
from .checks import CHECKED, RESERVED, Checked, changes, contents, tensors
from .controllers import CheckedController, CheckedEntropyController
from .credit import CheckedAdvantage, CheckedShaping
from .filters import CheckedEpisodeFilter, CheckedFilter, CheckedMetric
from .losses import CheckedAggregation, CheckedCorrection, CheckedKl, CheckedLoss

__all__ = [
    "RESERVED",
    "CheckedAdvantage",
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
    """The same experiment, with filters, metric, shaping, KL, controllers, advantage, loss, correction and
    aggregation checked.

    A component that hands over what its contract does not allow, or raises, ends the run with an error that names it.
    """
    select, metric = _with(experiment.filter.select, CheckedFilter), _with(experiment.filter.metric, CheckedMetric)
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
