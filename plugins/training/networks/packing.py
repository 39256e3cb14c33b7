"""Packed rows go through the model as one sequence without padding, and no row sees its neighbours.

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
"""Largest relative difference of packed and padded hidden states. Types of 16 bits round much more and get 0.1; if rows
saw each other, the difference would be of order one."""


@attrs.frozen(eq=False)
class Packed:
    """Packed rows are the tokens of a batch without padding, one row after the other."""

    tokens: Tensor
    """[1, N] token ids."""
    positions: Tensor
    """[1, N] positions, from 0 in each row."""
    boundaries: Tensor
    """[B + 1] int32: index at which each row begins, and N."""
    longest: int
    """Length in tokens that no row exceeds."""
    predicts: Tensor
    """[N] bool: whether the next token of the row is on the mask; in the order of the mask's own rows."""

    @classmethod
    def of(cls, batch: Batch) -> Packed:
        """Pack the rows of a batch."""
        width = batch.tokens.shape[1]
        positions_B_T = torch.arange(width, device=batch.tokens.device).expand(len(batch), -1)
        real_B_T = positions_B_T < batch.lengths[:, None]
        return cls(
            batch.tokens[real_B_T][None],
            positions_B_T[real_B_T][None],
            pad(batch.lengths.cumsum(0), (1, 0)).int(),
            width,
            pad(batch.mask[:, 1:], (0, 1))[real_B_T],
        )


def packed_hidden(decoder: Any, packed: Packed) -> Tensor:
    """Compute the last hidden states of packed rows: [N, H]."""
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
        RequestError: the model has other layers than (sliding) attention, or attention with sinks, biases or capped
            logits, or its hidden states of packed rows differ from those of padded ones.
    """
    decoder = model.get_decoder()
    layer_types = set(getattr(decoder.config.get_text_config(), "layer_types", None) or ())
    unsupported = sorted(layer_types - LAYERS)
    if unsupported:
        raise cannot_be_packed(decoder.config, f"has layers of type {unsupported[0]}")
    _check_packing(model, decoder)


@torch.no_grad()
def _check_packing(model: Any, decoder: Any) -> None:
    """Exchange the model's attention, and compare its packed hidden states with the padded ones from before."""
    training = model.training
    model.eval()
    # three rows, one of a single token, so that each could see a neighbour
    lengths_B = torch.tensor([7, 1, 4], device=model.device)
    real_B_T = torch.arange(7, device=model.device) < lengths_B[:, None]
    vocabulary = decoder.config.get_text_config().vocab_size
    tokens_B_T = torch.where(real_B_T, torch.arange(1, 22, device=model.device).view(3, 7) % vocabulary, 0)
    padded_N_H = decoder(input_ids=tokens_B_T, use_cache=False).last_hidden_state[real_B_T].float()
    if not use_own_attention(model):
        raise cannot_be_packed(decoder.config, "has attention of its own, which cannot be exchanged")
    batch = Batch(tokens=tokens_B_T, mask=real_B_T, lengths=lengths_B)
    packed_N_H = packed_hidden(decoder, Packed.of(batch)).float()
    model.train(training)
    error = float((packed_N_H - padded_N_H).norm() / padded_N_H.norm())
    if not error <= TOLERANCE.get(model.dtype, 0.1):
        raise cannot_be_packed(decoder.config, f"makes something else of packed rows (they differ by {error:.2g})")
