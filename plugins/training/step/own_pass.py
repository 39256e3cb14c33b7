"""The update's own forward pass gives the sampling policy's log-probs and entropies, where it can.

The first optimizer step after a rollout begins with the policy that sampled. Where it is the only one, and goes over
all rows, a pass before it would compute the same numbers a second time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....core.components import Scores
from ..processes.ranks import Ranks
from .batch import Batch
from .stages import on_all_ranks


class OwnPass:
    """An objective that also keeps the log-probs and entropies of the rows that it is given, each of them once."""

    def __init__(self, objective: Any) -> None:
        self.objective = objective
        self.prepare = objective.prepare
        self._scored: list[tuple[Tensor, dict[str, Tensor]]] = []

    def __call__(self, scores: Scores, batch: Batch) -> Any:
        assert batch.rows is not None and scores.logprobs is not None and scores.entropies is not None
        tensors = {"logprobs": scores.logprobs.detach(), "entropies": scores.entropies.detach()}
        self._scored.append((batch.rows, tensors))
        return self.objective(scores, batch)

    def scores(self, mask: Tensor, ranks: Ranks) -> Scores:
        """Return the scores [B, T] of all rows that any rank was given, on the CPU; all ranks call it."""
        return on_all_ranks([(rows.tolist(), tensors) for rows, tensors in self._scored], mask, ranks)
