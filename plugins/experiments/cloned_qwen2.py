"""The model builder ``cloned_qwen2`` makes a tiny Qwen2 that has half learnt to play an environment."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, le
from transformers import Qwen2ForCausalLM

from ...core.components import Dialogue, Environment, ModelBuilder, Rollouts
from ...core.compose.experiment import Experiment, Reward, Rollout
from ...core.errors import RequestError
from ..rollout import rows
from ..rollout.borders import name_of
from ..rollout.demonstrations import demonstrations, demonstrator_of, everything_said
from ..rollout.episode import Episode
from ..rollout.template import Template
from ..training.warm_start import supervised
from .cloning import clone
from .conversations import conversations
from .pieces import build_pieces
from .qwen2 import multiple_of_8, random_qwen2
from .tokenizer import build_tokenizer

share: Any = and_(ge(0), le(1))
_OTHERS = "set model.build=tiny_qwen2, which has learnt nothing, or give model.path instead"
_PIECES = "set model.build.tokenizer=pieces"


@attrs.frozen
class ClonedQwen2(ModelBuilder):
    """A Qwen2 of about 0.1M parameters with a tokenizer of its own, warm-started by cloning a demonstrator.

    It needs an environment that demonstrates (``Environment.demonstrated``). The demonstrator plays the same
    conversations that training samples. First nearly all of its actions are right; in the last ``noisy_share`` of the
    steps a share ``noise`` of them are mistakes. The model then often succeeds when it decodes greedily, and seldom
    when it samples. Reinforcement learning can close that gap; a model without it would have nothing to gain.

    It is a random model and a warm start of its own: the supervised steps are those of ``model.warm_start``, with fresh
    demonstrations in each and noise that changes. ``steps=0`` leaves them out, and ``model.warm_start`` may follow.

    The same parameters give the same weights on the same machine. The model sees tasks of the environment's split only.
    """

    steps: int = attrs.field(default=1000, validator=and_(ge(0), le(10**6)))
    """Number of optimizer steps; 0 leaves the model as random as it begins."""
    batch: int = attrs.field(default=16, validator=and_(ge(1), le(4096)))
    """Number of episodes in a step."""
    lr: float = attrs.field(default=4e-3, validator=and_(gt(0), le(1)))
    """Peak learning rate of AdamW."""
    noisy_share: float = attrs.field(default=0.2, validator=share)
    """Share of the steps at the end whose demonstrator is noisy."""
    noise: float = attrs.field(default=0.7, validator=share)
    """Share of the noisy demonstrator's actions that are mistakes."""
    clean_noise: float = attrs.field(default=0.05, validator=share)
    """Share of mistakes before that: a few mistakes show how to recover."""
    tokenizer: Literal["words", "pieces"] = attrs.field(default="words", validator=in_(("words", "pieces")))
    """Tokenizer: ``words``, one token a word, without white space, for actions with names; or ``pieces``, a byte-level
    BPE that keeps every text as it is, for all dialogues."""
    pieces: int = attrs.field(default=512, validator=and_(ge(300), le(10**5)))
    """Largest number of tokens of ``tokenizer: pieces``."""
    hidden: int = attrs.field(default=64, validator=[ge(8), le(4096), multiple_of_8])
    """Hidden size of the model, which has four heads, two key-value heads, and an MLP twice as wide."""
    layers: int = attrs.field(default=2, validator=and_(ge(1), le(128)))
    """Number of layers."""
    initializer: float = attrs.field(default=0.15, validator=and_(gt(0), le(10)))
    """Standard deviation of the first weights. With the usual 0.02, a model of the default size learns nothing in these
    steps; a model of millions of parameters needs about that value."""
    device: Literal["cpu", "cuda"] = attrs.field(default="cpu", validator=in_(("cpu", "cuda")))
    """Device on which it is cloned; a GPU is faster from some million parameters on."""
    max_turns: int = attrs.field(default=5, validator=and_(ge(1), le(1000)))
    """Value of ``rollout.max_turns``, which prompts may depend on, as on the next three."""
    max_actions_per_turn: int = attrs.field(default=2, validator=and_(ge(1), le(10**6)))
    """Value of ``rollout.max_actions_per_turn``."""
    max_actions: int = attrs.field(default=10, validator=and_(ge(1), le(10**6)))
    """Value of ``rollout.max_actions``."""
    max_tokens: int = attrs.field(default=24, validator=and_(ge(1), le(10**6)))
    """Value of ``rollout.max_tokens``."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Seed of the first weights and of the demonstrations."""

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Yield the reasons why it cannot be built for an experiment."""
        environment, dialogue = experiment.environment, experiment.dialogue
        if environment.component.demonstrated is None:
            yield f"clones a demonstrator, and the environment {environment.name} has none: {_OTHERS}"
        elif reason := self._unspeakable(environment.component, dialogue.component, dialogue.name):
            yield reason

    def _unspeakable(self, environment: Environment, dialogue: Dialogue, name: str) -> str:
        """Return the reason why words cannot spell responses; empty where they can."""
        if self.tokenizer == "words" and dialogue.calls_tools:
            return f"spells responses in words without white space, and the dialogue {name} needs it: {_PIECES}"
        if self.tokenizer == "words" and environment.actions is None:
            return f"spells responses in words without white space, and answers here are free text: {_PIECES}"
        return ""

    def sources(self) -> Sequence[Path]:
        # a model of other steps is another model
        return [Path(supervised.__file__)]

    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Build the model and its tokenizer.

        Raises:
            RequestError: nobody demonstrates the environment; its answers cannot be spelled in words; or there is no
                GPU where one is asked for.
        """
        demonstrator_of(environment)
        if reason := self._unspeakable(environment, dialogue, name_of(dialogue)):
            raise RequestError(f"cloned_qwen2 {reason}", "model.build", _PIECES)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RequestError("there is no GPU to clone on", "model.build.device", "set it to cpu")
        rollout = Rollout(
            max_turns=self.max_turns,
            max_actions_per_turn=self.max_actions_per_turn,
            max_actions=self.max_actions,
            max_tokens=self.max_tokens,
        )
        tokenizer = self._tokenizer(environment, rollout, dialogue)
        model: Any = self._model(tokenizer)
        model.to(self.device)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a second one helps little, waits on a busy machine, and changes the last bits
        try:
            clone(model, self._batches(environment, rollout, Template(tokenizer, dialogue)), self.steps, self.lr)
        finally:
            torch.set_num_threads(threads)
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)

    def _tokenizer(self, environment: Environment, rollout: Rollout, dialogue: Dialogue) -> Any:
        if self.tokenizer == "words":
            return build_tokenizer(everything_said(environment, rollout, dialogue, self.seed), dialogue.tags)
        return build_pieces(conversations(environment, rollout, dialogue, self.seed), dialogue.tags, self.pieces)

    def _model(self, tokenizer: Any) -> Qwen2ForCausalLM:
        return random_qwen2(tokenizer, self.hidden, self.layers, self.initializer, self.seed)

    def _batches(self, environment: Environment, rollout: Rollout, template: Template) -> Iterator[Rollouts]:
        """Yield a batch for each step, of episodes of similar length; padding would otherwise be half of the work."""
        noisy = round(self.steps * self.noisy_share)
        rng = random.Random(self.seed)
        for noise, steps in ((self.clean_noise, self.steps - noisy), (self.noise, noisy)):
            episodes = islice(demonstrations(environment, rollout, template, self.seed, noise), steps * self.batch)
            while pool := sorted(islice(episodes, 20 * self.batch), key=_length):
                starts = list(range(0, len(pool), self.batch))
                rng.shuffle(starts)
                for start in starts:
                    yield rows.build(pool[start : start + self.batch], rollout, Reward())


def _length(episode: Episode) -> int:
    return len(episode.turns[-1].prompt) + len(episode.turns[-1].tokens)
