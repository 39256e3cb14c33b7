"""The model builder ``tiny_qwen2`` makes a tiny Qwen2 that has learnt nothing, for any environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
from attrs.validators import and_, ge, gt, le

from ...core.components import Dialogue, Environment, ModelBuilder
from ...core.compose.experiment import Rollout
from .conversations import conversations
from .pieces import build_pieces
from .qwen2 import multiple_of_8, random_qwen2

_POSITIONS = 32768
"""As many as usual models have, so that no context of an experiment is too long."""


@attrs.frozen
class TinyQwen2(ModelBuilder):
    """A Qwen2 of about 0.1M parameters with random weights and a byte-level tokenizer, for any environment.

    It learns little, since it hardly ever gets a reward. It is there to try an experiment without a download:
    whether it runs, what its prompts say, what is logged. ``cloned_qwen2`` makes a model that has learnt something.
    """

    hidden: int = attrs.field(default=64, validator=[ge(8), le(4096), multiple_of_8])
    """Hidden size of the model, which has four heads, two key-value heads, and an MLP twice as wide."""
    layers: int = attrs.field(default=2, validator=and_(ge(1), le(128)))
    """Number of layers."""
    initializer: float = attrs.field(default=0.02, validator=and_(gt(0), le(10)))
    """Standard deviation of the weights."""
    pieces: int = attrs.field(default=512, validator=and_(ge(300), le(10**5)))
    """Largest number of tokens."""
    episodes: int = attrs.field(default=32, validator=and_(ge(1), le(10**5)))
    """Number of episodes whose texts the tokenizer is trained on."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Seed of the weights, and the first of the episodes."""

    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Build the model and its tokenizer."""
        texts = conversations(environment, Rollout(), dialogue, self.seed, self.episodes)
        tokenizer = build_pieces(texts, dialogue.tags, self.pieces)
        model: Any = random_qwen2(tokenizer, self.hidden, self.layers, self.initializer, self.seed, _POSITIONS)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
