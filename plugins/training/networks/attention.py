"""Packed rows, and fp32 rows on CUDA, get an attention function here, which transformers' models take by its name.

torch's fused kernels for CUDA take heads that share keys and values (grouped heads) in 16 bits only. In fp32 such a
call, which is what transformers makes, falls back on [T, T] probabilities for every head; with the keys and values
repeated for each head, it does not.

Packed rows need their boundaries, which a decoder hands down as ``cu_seq_lens_q`` and ``max_length_q``, the names that
transformers gives them for flash attention. On CUDA in 16 bits torch's variable-length flash attention is used,
everywhere else one fused attention per row.
"""

from __future__ import annotations

import inspect
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from ....core.errors import RequestError

NAME = "uncollapse"
LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that have plain attention, which is given nothing but a mask or a window."""


def fuse_fp32_attention(model: Any) -> None:
    """Give a model in fp32 on CUDA, whose heads share keys and values, an attention that torch has a kernel for.

    Other models keep theirs, and so does a model with layers that are not plain attention: some (sparse) layers depend
    on the name of the attention.
    """
    if model.dtype != torch.float32 or model.config._attn_implementation != "sdpa":
        return
    config = model.get_decoder().config
    # with attributes per layer the numbers below would not be those of every layer
    layers_are_alike = not getattr(config, "per_layer_attributes", None)
    if layers_are_alike and set(getattr(config, "layer_types", None) or LAYERS) <= LAYERS:
        heads = getattr(config, "num_attention_heads", None)
        key_value_heads = getattr(config, "num_key_value_heads", None)
        if key_value_heads not in (None, heads):
            use_own_attention(model)


def use_own_attention(model: Any) -> bool:
    """Exchange the attention of a transformers model; return ``False`` if it has one that cannot be exchanged.

    Only the kernel changes: without boundaries, a pass computes what transformers' ``sdpa`` does.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation(NAME)
    return bool(model.get_decoder().config._attn_implementation == NAME)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within the rows that ``cu_seq_lens_q`` bounds; without bounds, transformers' ``sdpa``.

    Args:
        query, key, value: [1, heads, N, head size]; keys and values may have fewer heads.
        sliding_window: how many tokens a token sees, itself included.

    Returns:
        [1, N, heads, head size], and ``None`` for the attention weights.
    """
    if cu_seq_lens_q is None:
        # in all other cases transformers repeats keys and values itself
        if attention_mask is None and key.shape[-1] == value.shape[-1] <= 256:
            key, value = _for_each_head(query, key, value)
        sdpa = AttentionInterface()["sdpa"]
        return sdpa(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    for unknown in ("softcap", "s_aux", "position_bias"):
        if options.get(unknown) is not None:
            raise cannot_be_packed(module.config, f"has attention with {unknown}")
    if _flash_is_possible(query, value, dropout):
        # flash attention counts the tokens before a token, and -1 is no window
        window = -1 if sliding_window is None else sliding_window - 1
        states = (x[0].transpose(0, 1) for x in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return flash_attention(*states, *bounds, scale=scaling, window_size=(window, 0))[None], None
    return _row_by_row(query, key, value, cu_seq_lens_q.diff().tolist(), sliding_window, dropout, scaling), None


def _row_by_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    sliding_window: int | None,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Compute one fused attention per row of ``lengths`` tokens: [1, N, heads, head size]."""
    key, value = _for_each_head(query, key, value)
    rows = []
    # a mask for all rows together would be [N, N]
    for row_query, row_key, row_value in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        window_T_T = _window(row_query, sliding_window)
        rows.append(
            scaled_dot_product_attention(
                row_query,
                row_key,
                row_value,
                attn_mask=window_T_T,
                dropout_p=dropout,
                is_causal=window_T_T is None,
                scale=scaling,
                enable_gqa=True,
            )
        )
    return torch.cat(rows, dim=2).transpose(1, 2)


def _find_flash_attention() -> Any:
    """Return torch's variable-length flash attention; ``None`` before torch 2.11, where it has no scale or window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= parameters.keys():
        return None
    # Releases without this option hand grouped heads to the kernel, which takes them.
    return partial(varlen_attn, enable_gqa=True) if "enable_gqa" in parameters else varlen_attn


flash_attention = _find_flash_attention()


def _flash_is_possible(query: Tensor, value: Tensor, dropout: float) -> bool:
    """Say whether flash attention has a kernel for these states."""
    fitting_dtype = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _is_ampere(query.device)
    fitting_size = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return flash_attention is not None and fitting_dtype and fitting_size and not dropout


@cache
def _is_ampere(device: torch.device) -> bool:
    """Say whether a GPU is of the Ampere generation or newer: flash attention has no kernel for older ones."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _window(query: Tensor, window: int | None) -> Tensor | None:
    """Mark the tokens that each token sees, itself and the ``window - 1`` before it: [T, T] bool.

    ``None`` if no token has more than that before it.
    """
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _for_each_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat keys and values for each head of the query, where torch's fused kernel wants that."""
    shared = query.shape[1] // key.shape[1]
    if shared == 1 or not _wants_each_head(query):
        return key, value
    return key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)


def _wants_each_head(query: Tensor) -> bool:
    """Say whether torch's fused kernel takes shared keys and values in 16 bits only."""
    return query.is_cuda and query.dtype == torch.float32


def cannot_be_packed(config: Any, reason: str) -> RequestError:
    """Make the error that refuses ``trainer.token_budget`` for a model."""
    return RequestError(
        f"a model of type {config.model_type} cannot train on packed rows: it {reason}",
        "trainer.token_budget",
        "set it to 0, or use a model with plain causal attention",
    )
