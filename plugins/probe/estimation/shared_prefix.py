"""What all rows of a micro-batch begin with is read once: a system prompt, or the prompt of several responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from ...training.networks.models import Policy
from ...training.step.batch import Batch
from ...training.step.prefix import Prefix, shares_prompts

WORTH = 16
"""Tokens that a common beginning must have: reading a shorter one apart costs more than it saves."""
GPU_PASS = 1e13
"""Operations that a GPU can make in the time that it takes to start all kernels of one more pass."""

Call = Callable[..., dict[str, torch.Tensor]]


def score(policy: nn.Module, call: Call, part: Batch, packed: bool = False, **options: Any) -> dict[str, torch.Tensor]:
    """Return ``call(part, **options)`` for the rows, with their common beginning read in one row where that pays.

    ``call`` is ``policy`` itself, or ``policy`` with other parameters. Derivatives pass through the keys and values of
    the beginning as through everything else.

    Args:
        packed: whether rows that are read whole are packed; those that continue a beginning are padded.
    """
    shared = common(part) if isinstance(policy, Policy) and _may_share(policy, part) else 0
    if not _is_worth(policy, part, shared):
        return call(part, **({"packed": True} if packed else {}), **options)
    prefix = Prefix()
    call(_cut(part.take([0]), 0, shared), entropy="none", cache=prefix)
    with prefix.continued():
        scores = call(_cut(part, shared, part.tokens.shape[1]), cache=prefix, **options)
    return {name: pad(value, (shared, 0)) for name, value in scores.items()}


def _may_share(policy: Policy, part: Batch) -> bool:
    """Return whether the model's rows can share a beginning, and would if all of them were one prompt."""
    limit = int(part.tokens.shape[1])
    return shares_prompts(policy.language_model.config) and _is_worth(policy, part, limit)


def _is_worth(policy: nn.Module, part: Batch, shared: int) -> bool:
    """Return whether reading so many tokens once, in a pass of their own, takes less time than in every row.

    A GPU spends the time of a pass over few tokens on starting its kernels; a token takes two operations a parameter.
    """
    if not part.tokens.is_cuda:
        return shared >= WORTH
    saved = shared * (len(part) - 1)
    return 2 * saved * sum(parameter.numel() for parameter in policy.parameters()) > GPU_PASS


def common(part: Batch) -> int:
    """Return how many tokens all rows begin with, none of which is sampled or predicts the first sampled one."""
    if len(part) < 2:
        return 0
    first = part.mask.long().argmax(1).where(part.mask.any(1), part.lengths) - 1
    limit = max(0, int(first.min()))
    equal = (part.tokens[:, :limit] == part.tokens[:1, :limit]).all(0)
    return int(equal.long().cumprod(0).sum())


def _cut(part: Batch, start: int, stop: int) -> Batch:
    """Return the columns from ``start`` to ``stop`` of the rows."""
    lengths = (part.lengths.clamp(max=stop) - start).clamp(min=0)
    columns = {name: value[:, start:stop] if value.ndim == 2 else value for name, value in part.tensors().items()}
    return Batch(**{**columns, "lengths": lengths}, prepared={})
