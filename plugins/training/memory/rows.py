"""The memory that rows of tokens take in a pass, per token: docs/memory.md derives every formula.

``b`` is the width of the model's dtype (2 or 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..networks.token_head import CHUNK_ELEMENTS

if TYPE_CHECKING:
    from .model_shape import Shape

WIDTH = {"float32": 4, "bfloat16": 2}


def layer_saved(shape: Shape, b: int) -> int:
    """Return the bytes per token that autograd keeps of a layer (RMSNorm in fp32, fused attention, gated MLP)."""
    norm = (4 + 2 * b) * shape.hidden + 4  # fp32 input, normalised, scaled, 1 / rms
    kv_heads = shape.kv_heads if b == 2 else shape.heads  # in fp32 they are repeated for each head
    attention = b * (2 * shape.heads + 2 * kv_heads) * shape.head_dim + 4 * shape.heads
    return 2 * norm + attention + 4 * b * shape.intermediate


def layer_working(shape: Shape, b: int) -> int:
    """Return the bytes per token that one layer needs while it runs."""
    return b * (3 * shape.intermediate + 4 * shape.hidden)


def activations(shape: Shape, tokens: int, b: int, checkpointing: bool) -> int:
    """Return the bytes of the forward and backward pass of one micro-batch, without the token head."""
    gradients = b * (2 * shape.intermediate + shape.hidden)
    final_norm = (4 + 2 * b) * shape.hidden
    if checkpointing:  # the input of each layer, and one layer that is computed again
        return tokens * (shape.layers * b * shape.hidden + layer_saved(shape, b) + gradients)
    return tokens * (shape.layers * layer_saved(shape, b) + final_norm + gradients)


def head_scoring(shape: Shape, tokens: int, b: int) -> int:
    """Return the bytes of three fp32 copies of a chunk of logits (the head ``torch``; ``triton`` takes less)."""
    return 12 * _chunk(shape, tokens) + tokens * b * shape.hidden


def head_training(shape: Shape, tokens: int, b: int, trains: bool) -> int:
    """Return the bytes of a chunk of logits with gradients (20 each), and of the output embedding's gradient."""
    chunk = _chunk(shape, tokens)
    embedding = b * shape.vocabulary * shape.hidden if trains else 0
    return max(20 * chunk + embedding, 3 * embedding + b * chunk) + tokens * b * shape.hidden


def _chunk(shape: Shape, tokens: int) -> int:
    return min(tokens * shape.vocabulary, max(CHUNK_ELEMENTS, shape.vocabulary))


def kv_row(shape: Shape, tokens: int, b: int) -> int:
    """Return the bytes of keys and values of all layers for a row; a sliding layer holds at most its window."""
    cached = (shape.layers - shape.sliding) * tokens + shape.sliding * min(tokens, shape.window or tokens)
    return 2 * cached * shape.kv_heads * shape.head_dim * b


def share(whole: int, ranks: int) -> int:
    return -(-whole // ranks)
