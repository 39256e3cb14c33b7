"""Packing: the rows of a batch go through the model as one sequence without padding, and none sees its neighbours.

Positions begin anew with each row, and :mod:`.attention` keeps rows apart.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..step.batch import Batch
from .attention import LAYERS, cannot_be_packed, use_own_attention

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
    decoder = model.get_decoder()
    if other := sorted(set(getattr(decoder.config.get_text_config(), "layer_types", None) or ()) - LAYERS):
        raise cannot_be_packed(decoder.config, f"has layers of type {other[0]}")
    _check_packing(model, decoder)


@torch.no_grad()
def _check_packing(model: Any, decoder: Any) -> None:
    training = model.training
    model.eval()
    lengths = torch.tensor([7, 1, 4], device=model.device)
    real = torch.arange(7, device=model.device) < lengths[:, None]
    tokens = torch.where(
        real, torch.arange(1, 22, device=model.device).view(3, 7) % decoder.config.get_text_config().vocab_size, 0
    )
    expected = decoder(input_ids=tokens, use_cache=False).last_hidden_state[real].float()
    if not use_own_attention(model):
        raise cannot_be_packed(decoder.config, "has attention of its own, which cannot be exchanged")
    found = packed_hidden(decoder, Packed.of(Batch(tokens=tokens, mask=real, lengths=lengths))).float()
    model.train(training)
    error = float((found - expected).norm() / expected.norm())
    if not error <= TOLERANCE.get(model.dtype, 0.1):
        raise cannot_be_packed(decoder.config, f"makes something else of packed rows (they differ by {error:.2g})")
