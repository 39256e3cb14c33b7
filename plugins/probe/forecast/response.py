"""The sampled tokens of a step respond to its update by a change of their log-probs and entropies.

The update is the one that was made, to the last rounding. What a fold of groups has done to it is taken out where that
fold is looked at, as far as it was planned: a sequence whose probability the update has raised because it was sampled
says that the entropy falls, whatever the update does to others.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts
from ...training.step.batch import Batch
from ...training.step.pending import PendingUpdate
from ...training.step.stages import to_batch
from ..estimation.passes import Outputs, trained
from .folds import Folds, Gradient, passes_over


@attrs.frozen(eq=False)
class Before:
    """An object of this class keeps the policy before the update, and what each fold will have done to the update."""

    update: PendingUpdate
    sampled: Rollouts
    """Rollouts of the step, before the filter."""
    base: Outputs
    """Log-probs and entropies of the rollouts: [B, T]."""
    corrections: list[Gradient | None]
    """Displacement without a fold less that of the whole update; ``None`` for a fold without which there is none."""
    rows: list[Tensor]
    """Rows of each fold, and at last those of no fold."""
    parameters: Gradient | None
    """Copies of what trains, where changes of the outputs are below their rounding; else ``None``."""

    @classmethod
    def of(cls, update: PendingUpdate, sampled: Rollouts, base: Outputs, folds: int) -> Before:
        """Keep the policy before the update, and plan the update with and without each of ``folds`` parts of it."""
        training_B = sampled.rows_of(torch.isin(sampled.group_ids_P, update.rollouts.group_ids_P))
        same = torch.equal(sampled.tokens[training_B], update.batch.tokens)
        split = Folds(update, folds, {name: table[training_B] for name, table in base.items()} if same else None)
        whole, others = split.displacements()
        corrections: list[Gradient | None] = []
        for other in others:
            corrections.append(other and {name: d - whole[name] for name, d in other.items()})
        fold_B = torch.tensor([split.fold_of.get(group, split.count) for group in sampled.groups.tolist()])
        rows = [(fold_B == fold).nonzero()[:, 0] for fold in range(split.count + 1)]
        parameters = trained(update.policy.module)
        exact = all(p.dtype in (torch.float32, torch.float64) for p in update.policy.module.parameters())
        copies = None if exact else {name: p.detach().clone() for name, p in parameters.items()}
        return cls(update, sampled, base, [*corrections, {}], rows, copies)

    def response(self) -> tuple[Outputs, Tensor]:
        """Return tables [B, T] with the ``_rate`` of each output, and [B] which rows have one, after the update.

        A rate is the change for the whole displacement.
        """
        tables: Outputs = dict(self.base)
        seen_B = torch.zeros(len(self.sampled.tokens), dtype=torch.bool)
        batch = to_batch(self.sampled)
        moved = {}
        if self.parameters is not None:
            now = trained(self.update.policy.module)
            moved = {name: (now[name].detach() - before).float() for name, before in self.parameters.items()}
        for rows, correction in zip(self.rows, self.corrections, strict=True):
            if correction is None or not len(rows):
                continue
            seen_B[rows] = True
            for name, change in self._changes(batch.take(rows.tolist()), rows, correction, moved).items():
                table = tables.setdefault(f"{name}_rate", torch.zeros(batch.mask.shape, dtype=torch.float64))
                table[rows, : change.shape[1]] = change
        return tables, seen_B

    def _changes(
        self, batch: Batch, rows: Tensor, correction: Mapping[str, Tensor], moved: Mapping[str, Tensor]
    ) -> Outputs:
        if self.parameters is None:
            now = passes_over(self.update, batch, self.update.experiment.trainer.score_batch).forward(correction, 1.0)
            return {name: now[name] - table[rows, : batch.mask.shape[1]] for name, table in self.base.items()}
        along = {name: change + correction.get(name, 0.0) for name, change in moved.items()}
        outputs = passes_over(self.update, batch).forward_mode(along, self.parameters)
        return {name: outputs[f"{name}_rate"] for name in self.base}
