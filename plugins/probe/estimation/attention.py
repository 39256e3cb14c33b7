"""Attention gets a forward-mode derivative here, in blocks of queries.

The fused kernels of PyTorch have no such derivative, and the plain form holds whole [T, T] matrices. While the mode is
on, ``scaled_dot_product_attention`` is computed in blocks from operations that have the derivative. A block holds its
own scores only; where attention is causal, it reads no key after its last query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

BLOCK = 64
"""Number of queries whose scores exist at once; on a GPU more, where their scores are few."""
SCORES = 2**26
"""Number of scores up to which a GPU computes more queries at once: it takes as long for one block as for another."""


class DifferentiableAttention(TorchFunctionMode):
    """Inside this context, models that call ``scaled_dot_product_attention`` can be differentiated in forward mode."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        function = in_blocks if func is scaled_dot_product_attention else func
        return function(*args, **(kwargs or {}))


def in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return what ``scaled_dot_product_attention`` returns in evaluation: nothing is dropped.

    Every query must see at least one key.
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key = key.repeat_interleave(repeats, -3)
        value = value.repeat_interleave(repeats, -3)
    # the scale goes into the queries, which are smaller than the scores
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    results = []
    block = BLOCK
    if query.is_cuda:
        block = max(BLOCK, SCORES // (query[..., 0, 0].numel() * key.shape[-2]))
    for start in range(0, query.shape[-2], block):
        rows = query[..., start : start + block, :]
        stop = start + rows.shape[-2]
        hidden, bias = None, None
        seen = key.shape[-2]
        if is_causal:
            seen = min(stop, seen)
            hidden = torch.ones(rows.shape[-2], seen, dtype=torch.bool, device=key.device).triu(start + 1)
        elif attn_mask is not None:
            mask = attn_mask.expand(*attn_mask.shape[:-2], query.shape[-2], seen)[..., start:stop, :]
            # a mask of numbers is added to the scores: no key can be left out of it
            if mask.dtype == torch.bool:
                seen = _last_seen(mask)
                hidden = ~mask[..., :seen]
            else:
                bias = mask
        results.append(_attend(rows, key[..., :seen, :], value[..., :seen, :], hidden, bias))
    return torch.cat(results, -2)


def _last_seen(mask: Tensor) -> int:
    """Return the number of keys up to the last one that a query sees; on a GPU all of them, as looking would wait."""
    if mask.is_cuda:
        return mask.shape[-1]
    return int(mask.flatten(0, -2).any(0).nonzero()[-1]) + 1


def _attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return softmax(Q K' + bias) V = P V with its derivative P D V + (D P) V, where D P = P (D S - sum P D S).

    The derivative is written out: those of the single operations would go over the scores several times more.
    """
    q, dq = forward_ad.unpack_dual(query)
    k, dk = forward_ad.unpack_dual(key)
    v, dv = forward_ad.unpack_dual(value)
    scores = q @ k.mT
    if bias is not None:
        scores = scores + bias
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    probabilities = scores.softmax(-1)
    result = probabilities @ v
    changes = [a @ b.mT for a, b in ((dq, k), (q, dk)) if a is not None and b is not None]
    tangent = None if dv is None else probabilities @ dv
    if changes:
        weighted = probabilities.mul_(sum(changes[1:], changes[0]))
        moved = weighted @ v - weighted.sum(-1, keepdim=True) * result
        tangent = moved if tangent is None else tangent + moved
    return result if tangent is None else forward_ad.make_dual(result, tangent)
