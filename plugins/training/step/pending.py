"""The update that a training step is about to make to the policy, as detectors see it before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ....core.components import Rollouts, Scores
from ..processes.ranks import Ranks
from .batch import Batch
from .losses import JointObjective, PolicyObjective
from .stages import weighted

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment


@attrs.frozen(eq=False)
class PendingUpdate:
    """The policy update that follows: exactly the rows, weights, loss and learning rate that the optimizer will get.

    It is the same on every rank.
    """

    step: int
    """The training step, from 1, as in the metrics."""
    policy: Any
    """The policy's :class:`~...core.components.TrainEngine`, which has its module and its optimizer's state."""
    rollouts: Rollouts
    """The episodes that the filters kept."""
    batch: Batch
    """Their rows, with advantages and log-probs as the loss reads them."""
    optimizer_steps: Sequence[Sequence[int]]
    """The rows of each optimizer step, in their order."""
    objective: PolicyObjective | JointObjective
    """What the update minimises."""
    experiment: Experiment
    """The experiment of the run."""
    lr_scale: float
    """The factor of ``trainer.lr`` in this training step."""
    ranks: Ranks
    scores: Scores | None = None
    """Log-probs and entropies of the rows before the update, if the step needed them."""

    @property
    def lr(self) -> float:
        """The learning rate of the update."""
        return self.experiment.trainer.lr * self.lr_scale

    def weighted(self, rows: Sequence[int]) -> Batch:
        """Return the batch with the token weights of an optimizer step on ``rows``, and what the policy loss prepares.

        For an optimizer step after the first one, the loss prepares as if the policy were still the one that sampled.
        """
        return self.objective.prepare(weighted(self.batch, rows, self.experiment), None)
