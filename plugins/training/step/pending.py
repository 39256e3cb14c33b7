"""What a training step is about to do to the policy, as detectors see it before and after the update."""

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
    """The policy update that follows: the very rows, weights, loss and learning rate that the optimizer will be given.

    Every rank has the same one.
    """

    step: int
    """The training step, from 1, as in the metrics."""
    policy: Any
    """The :class:`~...core.components.TrainEngine`: its module, and its optimizer's state before the update."""
    rollouts: Rollouts
    """The groups that the filter kept."""
    batch: Batch
    """Their rows, with advantages and log-probs as the loss reads them."""
    optimizer_steps: Sequence[Sequence[int]]
    """The rows of each optimizer step, in their order."""
    objective: PolicyObjective | JointObjective
    experiment: Experiment
    lr_scale: float
    """Share of ``trainer.lr`` in this training step."""
    ranks: Ranks
    scores: Scores | None = None
    """Log-probs and entropies of the rows before the update, if the step has had to score them."""

    @property
    def lr(self) -> float:
        return self.experiment.trainer.lr * self.lr_scale

    def weighted(self, rows: Sequence[int]) -> Batch:
        """The batch with the token weights of an optimizer step on ``rows``, and what the policy loss prepares for it.

        Of an optimizer step after the first one that is what it would prepare if the policy were still the one that
        sampled.
        """
        return self.objective.prepare(weighted(self.batch, rows, self.experiment), None)
