"""Rows that train: the tensors of a mini-batch, cut into micro-batches without changing what is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from .budget import by_tokens


@attrs.frozen(eq=False)
class Batch:
    """Right-padded rows [B, T] and what the losses need of each token; ``None`` where nobody needs it."""

    tokens: Tensor
    mask: Tensor
    lengths: Tensor
    """[B] tokens before the padding."""
    rows: Tensor | None = None
    """[B] where each row stands in the batch of the whole training step."""
    weights: Tensor | None = None
    """Share of each token in the loss of the whole optimizer step; zero for padding rows."""
    old_logprobs: Tensor | None = None
    sampler_logprobs: Tensor | None = None
    """As the rollout engine reported them, for a correction."""
    ref_logprobs: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    old_values: Tensor | None = None
    groups: Tensor | None = None
    """[B] the row's group id."""
    turns: Tensor | None = None
    old_entropies: Tensor | None = None
    prepared: Mapping[str, Tensor] = attrs.field(factory=dict)
    """What the policy loss has prepared for the optimizer step: [B, T], [B], or numbers []."""

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Sequence[int] | Tensor) -> Batch:
        """These rows, trimmed to the longest of them."""
        index = torch.as_tensor(rows, dtype=torch.long)
        width = int(self.lengths[index].max()) if len(index) else 1

        def rows_of(value: Tensor) -> Tensor:
            return value[index][:, :width] if value.ndim == 2 else value[index]

        taken = {name: rows_of(value) for name, value in self.tensors().items()}
        prepared = {name: rows_of(value) if value.ndim else value for name, value in self.prepared.items()}
        return Batch(**taken, prepared=prepared)

    def to(self, device: torch.device) -> Batch:
        prepared = {name: value.to(device) for name, value in self.prepared.items()}
        return Batch(**{name: value.to(device) for name, value in self.tensors().items()}, prepared=prepared)

    def tensors(self) -> dict[str, Tensor]:
        """What is there, by the name of its field."""
        fields = {field.name: getattr(self, field.name) for field in attrs.fields(Batch)}
        return {name: value for name, value in fields.items() if isinstance(value, Tensor)}


def shares(batch: Batch, rows: Sequence[int], ranks: int, size: int, budget: int = 0) -> list[list[Batch]]:
    """Cut ``rows`` into micro-batches of at most ``size`` rows for each rank, the same number for every rank; or of at
    most ``budget`` tokens (:func:`.budget.by_tokens`), unless that is 0.

    Rows of like length go together, and lengths are dealt out evenly. Ranks that run short are given a row of weight
    zero, so that every rank runs the same collective operations.
    """
    ordered = sorted(rows, key=lambda row: int(batch.lengths[row]), reverse=True)
    if budget:
        dealt = by_tokens({row: int(batch.lengths[row]) for row in rows}, ranks, budget)
    else:
        starts = range(0, len(ordered[::ranks]), size)
        dealt = [[ordered[rank::ranks][start : start + size] for start in starts] for rank in range(ranks)]
    idle = batch.take(ordered[-1:])
    idle = attrs.evolve(idle, weights=torch.zeros_like(idle.mask, dtype=torch.float32))
    return [[batch.take(own) if own else idle for own in micro_batches] for micro_batches in dealt]


def parts(rows: Sequence[int], size: int) -> list[list[int]]:
    """Cut rows into the fewest equal parts of at most ``size`` (lengths differ by one at most)."""
    count = max(1, -(-len(rows) // size))
    return [list(part) for part in (rows[len(rows) * k // count : len(rows) * (k + 1) // count] for k in range(count))]
