"""Conversations of an environment are written as texts, from which a tokenizer learns its pieces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import attrs

from ...core.components import Dialogue, Environment
from ...core.compose.experiment import Rollout
from ...core.compose.fields import TOKENS
from ..rollout.conversation import Conversation
from ..rollout.demonstrations import demonstrations
from ..rollout.template import Template
from .pieces import build_pieces

_NOISE = 0.5
"""The share of mistakes in demonstrations, so that the environment's answers to them occur."""


def conversations(
    environment: Environment, rollout: Rollout, dialogue: Dialogue, seed: int, episodes: int = 100
) -> Iterator[str]:
    """Yield whole conversations as the chat template writes them: demonstrations, or first prompts where nobody plays.

    They are spelled in bytes, of which more fit into a context than of a tokenizer's pieces.
    """
    template = Template(build_pieces((), dialogue.tags), dialogue)
    spelled = attrs.evolve(rollout, max_context=TOKENS, max_tokens=1)
    if environment.demonstrated is None:
        for number in range(episodes):
            conversation = Conversation(environment, spelled, template, seed + number)
            yield template.tokenizer.decode(list(conversation.prompt))
        return
    for episode in islice(demonstrations(environment, spelled, template, seed, _NOISE), episodes):
        last = episode.turns[-1]
        yield template.tokenizer.decode([*last.prompt, *last.tokens])
