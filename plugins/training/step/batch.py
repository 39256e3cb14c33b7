"""The rows of a step as tensors, and how they are cut into micro-batches without changing what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from .budget import by_tokens


@attrs.frozen(eq=False)
class Batch:
    """Right-padded rows [B, T] with what the losses read for each token; ``None`` where nothing needs it."""

    tokens: Tensor
    """[B, T] int64, right padded."""
    mask: Tensor
    """[B, T] bool: whether the policy sampled the token."""
    lengths: Tensor
    """[B] int64: the number of tokens before the padding."""
    rows: Tensor | None = None
    """[B] int64: the row's index among all rows of the training step."""
    weights: Tensor | None = None
    """[B, T] float32: the weight of each token in the loss of the whole optimizer step; zero for rows that only fill up
    a rank's share."""
    old_logprobs: Tensor | None = None
    """[B, T] nats: log-probs under the policy that sampled, as the trainer computes them."""
    sampler_logprobs: Tensor | None = None
    """[B, T] nats: log-probs as the rollout engine reported them."""
    ref_logprobs: Tensor | None = None
    """[B, T] nats: log-probs under the reference."""
    advantages: Tensor | None = None
    """[B, T]: the credit of each token."""
    returns: Tensor | None = None
    """[B, T] reward units: the critic's target."""
    old_values: Tensor | None = None
    """[B, T] reward units: the critic's values before its update."""
    groups: Tensor | None = None
    """[B] int64: the row's group id."""
    turns: Tensor | None = None
    """[B, T] int64: the turn of each sampled token, -1 off the mask."""
    old_entropies: Tensor | None = None
    """[B, T] nats: token entropies of the policy that sampled."""
    prepared: Mapping[str, Tensor] = attrs.field(factory=dict)
    """What the policy loss has prepared for the optimizer step: tensors [B, T], [B], or numbers []."""

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Sequence[int] | Tensor) -> Batch:
        """Return these rows, cut to the length of the longest of them."""
        index = torch.as_tensor(rows, dtype=torch.long)
        width = int(self.lengths[index].max()) if len(index) else 1

        def rows_of(value: Tensor) -> Tensor:
            return value[index][:, :width] if value.ndim == 2 else value[index]

        taken = {name: rows_of(value) for name, value in self.tensors().items()}
        prepared = {name: rows_of(value) if value.ndim else value for name, value in self.prepared.items()}
        return Batch(**taken, prepared=prepared)

    def to(self, device: torch.device) -> Batch:
        """Return the batch with all tensors on ``device``."""
        prepared = {name: value.to(device) for name, value in self.prepared.items()}
        return Batch(**{name: value.to(device) for name, value in self.tensors().items()}, prepared=prepared)

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields that hold a tensor, by name."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(Batch)}
        return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def shares(batch: Batch, rows: Sequence[int], ranks: int, size: int, budget: int = 0) -> list[list[Batch]]:
    """Cut ``rows`` into micro-batches for each rank, the same number for every rank.

    Rows of similar length go together, and lengths are spread evenly over the ranks. A rank that has too few rows is
    given one of weight zero, so that every rank runs the same collective operations.

    Args:
        batch: all rows of the training step.
        rows: the indices of those of one optimizer step.
        ranks: the number of ranks.
        size: the largest number of rows in a micro-batch.
        budget: the largest number of tokens in a micro-batch (:func:`.budget.by_tokens`), in place of ``size``; 0 sets
            no budget.
    """
    ordered = sorted(rows, key=lambda row: int(batch.lengths[row]), reverse=True)
    if budget:
        dealt = by_tokens({row: int(batch.lengths[row]) for row in rows}, ranks, budget)
    else:
        starts = range(0, len(ordered[::ranks]), size)
        dealt = [[ordered[rank::ranks][start : start + size] for start in starts] for rank in range(ranks)]
    shortest = batch.take(ordered[-1:])
    idle = attrs.evolve(shortest, weights=torch.zeros_like(shortest.mask, dtype=torch.float32))
    cut: list[list[Batch]] = []
    for rows_of_rank in dealt:
        cut.append([batch.take(part) if part else idle for part in rows_of_rank])
    return cut


def parts(rows: Sequence[int], size: int) -> list[list[int]]:
    """Cut rows into the fewest parts of at most ``size`` rows. The parts are equal, but for one row."""
    count = max(1, -(-len(rows) // size))
    bounds = [len(rows) * part // count for part in range(count + 1)]
    return [list(rows[start:end]) for start, end in pairwise(bounds)]
