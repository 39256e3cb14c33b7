"""A tiny Qwen2 is made with random weights, for a tokenizer."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM


def multiple_of_8(_: object, attribute: attrs.Attribute, value: int) -> None:
    """Refuse a hidden size that four heads of an even size cannot share. Raises ValueError."""
    if value % 8:
        raise ValueError(f"{attribute.name} must be a multiple of 8 (four heads of an even size), not {value}")


def random_qwen2(
    tokenizer: Any, hidden: int, layers: int, initializer: float, seed: int, positions: int = 2048
) -> Qwen2ForCausalLM:
    """Return a Qwen2 with four heads, two key-value heads, an MLP twice as wide as ``hidden``, and tied embeddings.

    The global random generator is left as it is.

    Args:
        initializer: the standard deviation of the weights.
        seed: the seed of the weights.
        positions: the longest context that the configuration states.
    """
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        initializer_range=initializer,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)
