"""The attention of packed rows, and of fp32 rows on CUDA: a function that transformers' models are given by name.

torch's fused kernels for CUDA take heads that share keys and values (grouped heads) in 16 bits only. In fp32 such a
call, which is what transformers makes, falls back on [T, T] probabilities for every head; with the keys and values
repeated for each head, it does not.

Packed rows need their boundaries, which a decoder hands down as ``cu_seq_lens_q`` and ``max_length_q``, the names that
transformers gives them for flash attention. On CUDA in 16 bits that is torch's variable-length flash attention;
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
"""Kinds of layers whose attention is the plain one, given nothing but a mask or a window."""


def fuse_fp32_attention(model: Any) -> None:
    """Give a model in fp32 on CUDA, whose heads share keys and values, an attention that torch has a kernel for.

    Others keep theirs, and so does one with layers that are not plain attention: some (sparse) ones look at the name.
    """
    if model.dtype != torch.float32 or model.config._attn_implementation != "sdpa":
        return
    config = model.get_decoder().config
    alike = not getattr(config, "per_layer_attributes", None)  # else a layer's sizes must be asked of it
    if alike and set(getattr(config, "layer_types", None) or LAYERS) <= LAYERS:
        heads, shared = (getattr(config, name, None) for name in ("num_attention_heads", "num_key_value_heads"))
        if shared not in (None, heads):
            use_own_attention(model)


def use_own_attention(model: Any) -> bool:
    """Exchange the attention of a transformers model; ``False`` where it has one that cannot be exchanged.

    Nothing changes but the kernel: a pass without boundaries is one of transformers' ``sdpa``.
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
    """Causal attention within the rows that ``cu_seq_lens_q`` bounds; without them transformers' ``sdpa``.

    Args:
        query, key, value: [1, heads, N, head size]; keys and values may have fewer heads.
        sliding_window: tokens that a token sees, itself included.

    Returns:
        [1, N, heads, head size], and no attention weights.
    """
    if cu_seq_lens_q is None:
        if attention_mask is None and key.shape[-1] == value.shape[-1] <= 256:  # else transformers repeats them
            key, value = _for_each_head(query, key, value)
        plain = AttentionInterface()["sdpa"]
        return plain(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    for unknown in ("softcap", "s_aux", "position_bias"):
        if options.get(unknown) is not None:
            raise cannot_be_packed(module.config, f"has attention with {unknown}")
    if _flashes(query, value, dropout):
        window = -1 if sliding_window is None else sliding_window - 1
        states = (x[0].transpose(0, 1) for x in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return flash_attention(*states, *bounds, scale=scaling, window_size=(window, 0))[None], None
    key, value = _for_each_head(query, key, value)
    lengths = cu_seq_lens_q.diff().tolist()
    rows = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        window_T_T = _window(q, sliding_window)
        rows.append(
            scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=window_T_T,
                dropout_p=dropout,
                is_causal=window_T_T is None,
                scale=scaling,
                enable_gqa=True,
            )
        )
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _find_flash_attention() -> Any:
    """That of torch itself; ``None`` before torch 2.11, where it takes neither a scale nor a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    known = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= known.keys():
        return None
    # Releases without this option hand grouped heads to the kernel, which takes them.
    return partial(varlen_attn, enable_gqa=True) if "enable_gqa" in known else varlen_attn


flash_attention = _find_flash_attention()


def _flashes(query: Tensor, value: Tensor, dropout: float) -> bool:
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _is_ampere(query.device)
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return flash_attention is not None and half and fits and not dropout


@cache
def _is_ampere(device: torch.device) -> bool:
    """Or newer: flash attention has no kernel for older GPUs."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _window(query: Tensor, window: int | None) -> Tensor | None:
    """[T, T] bool: the token itself and the ``window - 1`` before it; ``None`` where that is all of them."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _for_each_head(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values, repeated for each head of the query where torch's fused kernel wants that."""
    shared = query.shape[1] // key.shape[1]
    if shared == 1 or not _wants_each_head(query):
        return key, value
    return key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)


def _wants_each_head(query: Tensor) -> bool:
    return query.is_cuda and query.dtype == torch.float32


def cannot_be_packed(config: Any, reason: str) -> RequestError:
    """The refusal of ``trainer.token_budget``."""
    return RequestError(
        f"a model of type {config.model_type} cannot train on packed rows: it {reason}",
        "trainer.token_budget",
        "set it to 0, or use a model with plain causal attention",
    )
