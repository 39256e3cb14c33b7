"""The laws of reward shaping."""

from __future__ import annotations

import torch

from ...core.components import ShapingInputs
from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedShaping
from .. import samples
from ..problems import laws, require

ORDER = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])


def _shapes(named: Named) -> None:
    """A shaping gives one finite reward for each episode and does not change its inputs."""
    shape = CheckedShaping(named).shape
    shape(samples.shaping_inputs())
    shape(samples.rows_of_shaping(samples.shaping_inputs(), torch.tensor([3])))


def _follows_the_episodes(named: Named) -> None:
    """A shaping's reward of an episode does not depend on where it stands among the episodes."""
    inputs = samples.shaping_inputs()
    shape = CheckedShaping(named).shape
    moved_E = shape(samples.rows_of_shaping(inputs, ORDER))
    what = "gave an episode another reward when the episodes came in another order: follow groups_E"
    require(named, "shape", torch.allclose(moved_E, shape(inputs)[ORDER], atol=1e-5), what)


def _says_the_same_twice(named: Named) -> None:
    """A shaping gives the same rewards when it is asked again."""
    shape = CheckedShaping(named).shape
    same = torch.equal(shape(samples.shaping_inputs()), shape(samples.shaping_inputs()))
    require(named, "shape", same, "gave other rewards at a second call: state belongs in the inputs' step")


def _is_idle_as_it_says(named: Named) -> None:
    """A shaping that says that it is idle leaves every reward as it is."""
    inputs: ShapingInputs = samples.shaping_inputs()
    same = not named.component.idle or torch.equal(CheckedShaping(named).shape(inputs), inputs.rewards_E)
    require(named, "shape", same, "changes rewards although it says that it is idle, and is never asked")


LAWS = {"reward_shaping": laws(_shapes, _follows_the_episodes, _says_the_same_twice, _is_idle_as_it_says)}
