"""Packing: the rows of a batch go through the model as one sequence without padding, and none sees its neighbours.

Positions begin anew with each row, and an attention function of our own keeps rows apart. A decoder hands it the
boundaries as ``cu_seq_lens_q`` and ``max_length_q``, the names that transformers gives them for flash attention.
Passes without boundaries (generation, caches, padded rows) get transformers' ``sdpa``.

On CUDA in 16 bits this is torch's variable-length flash attention; everywhere else one fused attention per row.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from ...core.errors import RequestError
from .batch import Batch

NAME = "uncollapse_packed"
LAYERS = frozenset({"full_attention", "sliding_attention"})
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Of packed against padded hidden states, relative; 16 bits round them much more. A leak is of order one."""


@attrs.frozen(eq=False)
class Packed:
    """The tokens of a batch's rows, one row after the other."""

    tokens: Tensor
    """[1, N]."""
    positions: Tensor
    """[1, N], from 0 in each row."""
    boundaries: Tensor
    """[B + 1] int32: where each row begins, and N."""
    longest: int
    """No row is longer (tokens)."""
    predicts: Tensor
    """[N] bool: the next token of the row is on the mask. In the order of the mask's own rows."""

    @classmethod
    def of(cls, batch: Batch) -> Packed:
        width = batch.tokens.shape[1]
        positions = torch.arange(width, device=batch.tokens.device).expand(len(batch), -1)
        real = positions < batch.lengths[:, None]
        return cls(
            batch.tokens[real][None],
            positions[real][None],
            pad(batch.lengths.cumsum(0), (1, 0)).int(),
            width,
            pad(batch.mask[:, 1:], (0, 1))[real],
        )


def packed_hidden(decoder: Any, packed: Packed) -> Tensor:
    """[N, H] last hidden states."""
    nothing_hidden = torch.zeros(1, 1, 1, 1, device=packed.tokens.device)
    output = decoder(
        input_ids=packed.tokens,
        position_ids=packed.positions,
        # A mask of four dimensions is taken as it is: otherwise restarting positions are turned into one of [N, N].
        attention_mask=nothing_hidden,
        cu_seq_lens_q=packed.boundaries,
        cu_seq_lens_k=packed.boundaries,
        max_length_q=packed.longest,
        max_length_k=packed.longest,
        use_cache=False,
    )
    return output.last_hidden_state[0]


def enable_packing(model: Any) -> None:
    """Give a Hugging Face decoder, or a model with one, an attention that can be packed; other passes stay as they are.

    Raises:
        RequestError: the model cannot be packed: it has other layers than (sliding) attention, attention with sinks,
            biases or capped logits, or what it makes of packed rows differs from what it makes of padded ones.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
    decoder = model.get_decoder()
    if other := sorted(set(getattr(decoder.config, "layer_types", None) or ()) - LAYERS):
        raise _refusal(decoder.config, f"has layers of type {other[0]}")
    _check_packing(model, decoder)


@torch.no_grad()
def _check_packing(model: Any, decoder: Any) -> None:
    training = model.training
    model.eval()
    lengths = torch.tensor([7, 1, 4], device=model.device)
    real = torch.arange(7, device=model.device) < lengths[:, None]
    tokens = torch.where(real, torch.arange(1, 22, device=model.device).view(3, 7) % decoder.config.vocab_size, 0)
    expected = decoder(input_ids=tokens, use_cache=False).last_hidden_state[real].float()
    model.set_attn_implementation(NAME)
    if decoder.config._attn_implementation != NAME:
        raise _refusal(decoder.config, "has attention of its own, which cannot be exchanged")
    found = packed_hidden(decoder, Packed.of(Batch(tokens=tokens, mask=real, lengths=lengths))).float()
    model.train(training)
    error = float((found - expected).norm() / expected.norm())
    if not error <= TOLERANCE.get(model.dtype, 0.1):
        raise _refusal(decoder.config, f"makes something else of packed rows (they differ by {error:.2g})")


def packed_attention(
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
        plain = AttentionInterface()["sdpa"]
        return plain(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    for unknown in ("softcap", "s_aux", "position_bias"):
        if options.get(unknown) is not None:
            raise _refusal(module.config, f"has attention with {unknown}")
    if _flashes(query, value, dropout):
        window = -1 if sliding_window is None else sliding_window - 1
        states = (x[0].transpose(0, 1) for x in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return flash_attention(*states, *bounds, scale=scaling, window_size=(window, 0))[None], None
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
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return flash_attention is not None and half and fits and not dropout


def _window(query: Tensor, window: int | None) -> Tensor | None:
    """[T, T] bool: the token itself and the ``window - 1`` before it; ``None`` where that is all of them."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)


def _refusal(config: Any, reason: str) -> RequestError:
    return RequestError(
        f"a model of type {config.model_type} cannot train on packed rows: it {reason}",
        "trainer.token_budget",
        "set it to 0, or use a model with plain causal attention",
    )
