"""Groups are put into buckets by their score: as many to each bucket, or between fixed edges.

Both are as in RAGEN-2 (arXiv 2604.06268), whose gradients stand in six buckets of the in-group deviation of rewards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import attrs
import torch
from torch import Tensor

BUCKETS = 6


@attrs.frozen(eq=False)
class Bucket:
    """A bucket holds the groups whose scores are alike."""

    name: str
    groups: tuple[int, ...]
    """Positions of its groups in ``rollouts.group_ids_P``, in batch order."""
    low: float | None = None
    """Least score that belongs to it; ``None`` where no edge is given."""
    high: float | None = None
    """Score from which on groups belong to the next bucket; ``None`` where no edge is given."""


def everything(scores_P: Tensor) -> Bucket:
    """Return the bucket of all groups."""
    return Bucket("all", tuple(range(len(scores_P))))


def by_quantile(scores_P: Tensor, count: int = BUCKETS) -> list[Bucket]:
    """Sort the groups by score and cut them into ``count`` buckets of one size, the lowest first.

    The remainder goes to the last bucket; with fewer groups than ``count`` each is a bucket. Equal scores stay in batch
    order, and may stand in two buckets.
    """
    order = scores_P.argsort(stable=True).tolist()
    count = min(count, len(order))
    size = len(order) // count if count else 0
    buckets = []
    for number in range(count):
        end = len(order) if number == count - 1 else (number + 1) * size
        buckets.append(Bucket(f"bucket_{number + 1}", tuple(sorted(order[number * size : end]))))
    return buckets


def by_edges(scores_P: Tensor, edges: Sequence[float]) -> list[Bucket]:
    """Put the groups between rising edges, (-inf, e_1) [e_1, e_2) ... [e_k, inf); a bucket may stay empty."""
    inner = torch.tensor(edges, dtype=torch.float64)
    of_P = torch.bucketize(scores_P.double(), inner, right=True)
    buckets = []
    for number, (low, high) in enumerate(pairwise((None, *edges, None))):
        groups = (of_P == number).nonzero().flatten().tolist()
        buckets.append(Bucket(f"bucket_{number + 1}", tuple(groups), low, high))
    return buckets


def edges_problem(edges: Sequence[float]) -> str:
    """Say why these cannot be edges; empty if they can."""
    if not edges:
        return "there is no edge"
    if not all(map(math.isfinite, edges)):
        return "an edge is not a finite number"
    if any(after <= before for before, after in pairwise(edges)):
        return "edges must rise"
    return ""
