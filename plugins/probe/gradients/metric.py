"""The axis of the buckets is a registered group metric, which is given what the probe can give."""

from __future__ import annotations

import attrs
from torch import Tensor

from ....core.compose.combinations import GIVEN
from ....core.compose.converter import make_converter, structure_component
from ....core.compose.named import Named
from ....core.compose.problems import Invalid, Problem
from ....core.registry import registry
from ...training.step.borders import CheckedMetric
from ...training.step.stages import to_batch
from ..estimation.passes import Passes
from ..read_config import ConfigError
from ..sampling.samples import Sample
from ..session import Session

BY = "--by"


def named_metric(spelled: str) -> Named:
    """Return the group metric that is spelled so, such as ``reward_variance(squared=true)``.

    Raises:
        ConfigError: there is no such metric, it has no such parameters, or needs what no group metric is given.
    """
    try:
        named = structure_component(make_converter(registry()), registry(), "group_metric", spelled)
    except Invalid as error:
        raise ConfigError([problem.under(BY) for problem in error.problems]) from error
    if lacking := sorted(named.needs - GIVEN["group_metric"]):
        reason = f"needs {' and '.join(lacking).replace('_', ' ')}, which no group metric is given"
        raise ConfigError([Problem(reason, BY, spelled, "choose another metric (uncollapse list group_metric)")])
    return named


def check_groups(named: Named, group_size: int) -> None:
    """Raise ConfigError if the metric compares the responses of a group, and there is only one."""
    if group_size == 1 and "groups" in named.needs:
        reason = f"the metric {named} compares the responses to one prompt, and there is one for each prompt"
        raise ConfigError([Problem(reason, "batch_config.G", 1, "set batch_config.G to 2 or more")])


def scores_of(named: Named, session: Session, sample: Sample) -> Tensor:
    """Return the score of each group of a sample: [P], in the units of the metric."""
    rollouts = sample.rollouts
    if "entropies" in named.needs:
        sizes = session.config.memory_config.sizes
        passes = Passes(session.policy, to_batch(rollouts), ranks=session.ranks, **sizes)
        rollouts = attrs.evolve(rollouts, entropies=passes.forward()["entropies"].float())
    return CheckedMetric(named).score(rollouts)
