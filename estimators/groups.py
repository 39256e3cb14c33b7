"""Statistics of the members of each group, addressed by group id and never by position.

Groups whose members are all equal are recognised by comparing the members, not by looking at a computed deviation:
their mean is exactly the common value and their standard deviation exactly 0, so rounding noise can neither pass a
filter nor be blown up by a division by the deviation (NeMo-RL pull request 4158: advantages of 10^5 from seven equal
rewards).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import RunError


def group_index(groups_E: Tensor, ids_P: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the distinct group ids and, for each member, the position of its group among them.

    Args:
        groups_E: [E] int64 group id of each member.
        ids_P: [P] int64 distinct ids whose order is to be kept; ``None`` takes the sorted ids that occur.

    Returns:
        ids_P and index_E with ``ids_P[index_E] == groups_E``.

    Raises:
        RunError: a member's group is not among ``ids_P``.
    """
    if ids_P is None:
        ids_P, index_E = torch.unique(groups_E, return_inverse=True)
        return ids_P, index_E
    sorted_P, order_P = ids_P.sort()
    place_E = torch.searchsorted(sorted_P, groups_E).clamp(max=max(len(ids_P) - 1, 0))
    if len(groups_E) and (not len(ids_P) or bool((sorted_P[place_E] != groups_E).any())):
        raise RunError("a member belongs to a group that is not listed", "group_index", "list every group id once")
    return ids_P, order_P[place_E] if len(ids_P) else place_E


def group_count(index_E: Tensor, P: int) -> Tensor:
    """Count the members of each group: [P] int64."""
    return torch.bincount(index_E, minlength=P)


def group_sum(x_E: Tensor, index_E: Tensor, P: int) -> Tensor:
    """Sum over the members of each group: [P]; 0 for a group without members."""
    x_E = _at_least_float32(x_E)
    return x_E.new_zeros(P).index_add(0, index_E, x_E)


def group_mean(x_E: Tensor, index_E: Tensor, P: int) -> Tensor:
    """Average over the members of each group: [P]; exactly the common value where all are equal, 0 without members."""
    x_E = _at_least_float32(x_E)
    low_P, high_P = _extremes(x_E, index_E, P)
    mean_P = group_sum(x_E, index_E, P) / group_count(index_E, P).clamp(min=1)
    return torch.where(low_P == high_P, low_P, mean_P)


def group_std(x_E: Tensor, index_E: Tensor, P: int, ddof: int = 1) -> Tensor:
    """Compute the standard deviation of each group, from deviations about the group mean: [P].

    It is exactly 0 where all members are equal, and so for a group of one. ``ddof`` is 0 or 1.
    """
    x_E = _at_least_float32(x_E)
    deviation_E = x_E - group_mean(x_E, index_E, P)[index_E]
    variance_P = group_sum(deviation_E.square(), index_E, P) / (group_count(index_E, P) - ddof).clamp(min=1)
    return variance_P.sqrt()


def _at_least_float32(x_E: Tensor) -> Tensor:
    return x_E if x_E.dtype in (torch.float32, torch.float64) else x_E.float()


def _extremes(x_E: Tensor, index_E: Tensor, P: int) -> tuple[Tensor, Tensor]:
    low_P = x_E.new_full((P,), torch.inf).scatter_reduce(0, index_E, x_E, "amin")
    high_P = x_E.new_full((P,), -torch.inf).scatter_reduce(0, index_E, x_E, "amax")
    return low_P, high_P
