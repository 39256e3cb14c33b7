"""Keys and values of prompts are kept here, and any number of rows may continue each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class Prefix(Cache):
    """The keys and values of one row of tokens, or of several rows, which other rows continue."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self.grows = True
        """Whether the keys and values of continuing rows are kept."""
        self.chosen: Tensor | None = None
        """[rows] int64: the row of the prefix that each row continues; ``None`` for the only one, or all in order."""
        self._padding: Tensor | None = None
        """[rows of the prefix] int64: entries before the first token of each; ``None`` where there are none."""

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the prefix with the new states of every row. Copies for many rows live as long as needed."""
        while len(self.layers) <= layer_idx:
            self.layers.append(DynamicLayer())
        layer: Any = self.layers[layer_idx]
        keys, values = (
            new if old is None else torch.cat([self._continued(old, len(new)), new], dim=-2)
            for old, new in ((layer.keys, key_states), (layer.values, value_states))
        )
        if self.grows:
            layer.keys, layer.values = keys, values
            layer.is_initialized = True
        return keys, values

    def _continued(self, old: Tensor, rows: int) -> Tensor:
        return old.expand(rows, -1, -1, -1) if self.chosen is None else old[self.chosen]

    def cut(self, length: int) -> None:
        """Drop all but the first ``length`` tokens."""
        layer: Any
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[..., :length, :], layer.values[..., :length, :]

    @contextmanager
    def continued(self, chosen: Tensor | None = None) -> Iterator[None]:
        """Let rows continue the prefix for a while, each its ``chosen`` row, and keep nothing of theirs."""
        self.grows, self.chosen = False, chosen
        try:
            yield
        finally:
            self.grows, self.chosen = True, None

    def align(self, lengths: Sequence[int]) -> None:
        """Move the entries of right-padded rows to the right, so that what continues them follows their last token."""
        longest = max(lengths)
        if min(lengths) == longest:
            return
        padding = torch.tensor([longest - length for length in lengths])
        # padding goes round to the front, where no row looks
        columns = (torch.arange(longest) - padding[:, None]) % longest
        layer: Any = self.layers[0]
        padding, columns = padding.to(layer.keys.device), columns.to(layer.keys.device)
        for layer in self.layers:
            layer.keys, layer.values = (
                states.take_along_dim(columns[:, None, :, None], dim=-2) for states in (layer.keys, layer.values)
            )
        self._padding = padding

    def inputs(self, width: int) -> dict[str, Tensor]:
        """Return what a decoder must be told of rows of ``width`` tokens that continue padded ones."""
        if self._padding is None:
            return {}
        padding = self._padding if self.chosen is None else self._padding[self.chosen]
        past = self.get_seq_length()
        columns = torch.arange(past + width, device=padding.device)
        return {
            "attention_mask": (columns >= padding[:, None]).long(),
            "position_ids": columns[past:] - padding[:, None],
        }


def unshared(config: Any) -> list[str]:
    """Return the kinds of a model's layers whose cache cannot be cut to a prefix and continued by many rows."""
    layers = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer, DynamicSlidingWindowLayer}
    return sorted(layer.__name__ for layer in layers)


def shares_prompts(config: Any) -> bool:
    """Return whether the cache of a model can be cut to a prefix and continued by many rows."""
    return not unshared(config)
