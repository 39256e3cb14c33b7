"""Attention that has a forward-mode derivative: the fused kernels have none, and the plain form holds [T, T] matrices.

While the mode is on, ``scaled_dot_product_attention`` is computed in blocks of queries from operations that do. A block
holds its own scores only, and where attention is causal no key after it is looked at.
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
"""Queries whose scores exist at once."""


class DifferentiableAttention(TorchFunctionMode):
    """Inside this context models that call ``scaled_dot_product_attention`` can be differentiated forwards."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        called = in_blocks if func is scaled_dot_product_attention else func
        return called(*args, **(kwargs or {}))


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
    """As ``scaled_dot_product_attention`` in evaluation: nothing is dropped. Every query must see at least one key."""
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = (x.repeat_interleave(repeats, -3) for x in (key, value))
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    results = []
    for start in range(0, query.shape[-2], BLOCK):
        rows = query[..., start : start + BLOCK, :]
        stop = start + rows.shape[-2]
        hidden, bias = None, None
        seen = key.shape[-2]
        if is_causal:
            seen = min(stop, seen)
            hidden = torch.ones(rows.shape[-2], seen, dtype=torch.bool, device=key.device).triu(start + 1)
        elif attn_mask is not None:
            mask = attn_mask.expand(*attn_mask.shape[:-2], query.shape[-2], seen)[..., start:stop, :]
            if mask.dtype == torch.bool:
                seen = _last_seen(mask)
                hidden = ~mask[..., :seen]
            else:
                bias = mask
        results.append(_attend(rows, key[..., :seen, :], value[..., :seen, :], hidden, bias))
    return torch.cat(results, -2)


def _last_seen(mask: Tensor) -> int:
    """The number of keys up to the last one that some query sees; all of them where looking would make a GPU wait."""
    if mask.is_cuda:
        return mask.shape[-1]
    return int(mask.flatten(0, -2).any(0).nonzero()[-1]) + 1


def _attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, bias: Tensor | None) -> Tensor:
    """Softmax(Q K' + bias) V = P V, and its derivative P D V + (D P) V with D P = P (D S - sum P D S) written out: the
    derivatives of the single operations would go over the scores several times more.
    """
    (q, dq), (k, dk), (v, dv) = (forward_ad.unpack_dual(x) for x in (query, key, value))
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
