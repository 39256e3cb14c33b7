"""Base classes of what samples, and what an engine tells of the memory that it takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from .component import Component

if TYPE_CHECKING:
    from torch import Tensor

    from .data import Completion, Sampling


@attrs.frozen
class SamplingLoad:
    """What an engine is to sample beside the trainer, for a plan of its memory. Sizes are bytes."""

    weights: int
    """The size of a whole model."""
    row: int
    """The size of the keys and values of a conversation as long as ``rollout.max_context``; 0 where it is not known."""
    row_pass: int
    """What a forward pass over such a conversation needs."""
    rows: int
    """Conversations of the largest rollout, on one rank."""
    ranks: int = 1
    """Processes that train, one on each of the first GPUs."""
    sharded: bool = False
    """Whether no rank holds a whole model, so that the engine is given one (ZeRO 3)."""
    gpu: int = 0
    """The memory of one GPU; 0 where it is not known."""


@attrs.frozen
class Shortage:
    """Memory that an engine lacks whatever the trainer takes, because its own parameters allow it too little."""

    need: int
    """Bytes that it cannot do without."""
    key: str
    """The parameter that allows it less."""
    fix: str


@attrs.frozen
class EngineMemory:
    """What an engine takes of each GPU that trains. Sizes are bytes."""

    whole: bool = False
    """Whether it samples with a whole model of its own, so that no weights are gathered for it."""
    loading: int = 0
    """What it holds while models are loaded."""
    resting: int = 0
    """What it holds while the trainer works."""
    working: int = 0
    """What it holds during a rollout, its cache and its passes apart where they are counted for themselves."""
    cache: int = 0
    """The keys and values of a rollout."""
    passes: int = 0
    """Activations of its forward passes."""
    shortage: Shortage | None = None


class RolloutEngine(Component):
    """Kind ``rollout_engine``: token ids in, token ids and log-probs out."""

    __slots__ = ()

    greedy: ClassVar[bool] = True
    """Whether it can decode greedily (``greedy_rewards`` need that)."""
    own_weights: ClassVar[bool] = False
    """Whether it samples with a copy of the policy, which must be synced."""

    @abstractmethod
    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> RolloutEngineSession:
        """Begin to serve.

        Args:
            model: a Hugging Face causal language model, shared with the trainer where the engine can do that.
            tokenizer: the model's.
            max_context: the longest prompt and response together (tokens), for engines that reserve memory.
        """

    def require(self, ranks: int = 1) -> None:
        """Raises RequestError where it cannot run on this machine beside so many trainers; no model is loaded yet."""

    def check_spread(self, heads: int, ranks: int = 1) -> None:
        """Raises RequestError where a model of ``heads`` attention heads cannot be spread over its GPUs as asked."""

    def memory(self, load: SamplingLoad) -> EngineMemory:
        """What it takes of each GPU, for ``uncollapse memory-plan`` and the check before a run.

        By default an engine with ``own_weights`` holds them and one conversation all the time, and another one samples
        all conversations at once with the trainer's model.
        """
        if self.own_weights:
            least = load.weights + load.row
            return EngineMemory(whole=True, loading=load.weights, resting=least, working=least)
        copy = load.weights if load.sharded else 0
        return EngineMemory(
            whole=load.sharded,
            loading=copy,
            resting=copy,
            working=copy,
            cache=load.rows * load.row,
            passes=load.rows * load.row_pass,
        )

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Other values of its parameters with which it takes less memory, the mildest change first; by default none."""
        yield from ()


class RolloutEngineSession(ABC):
    """A running engine."""

    __slots__ = ()

    single_requests: bool = False
    """Whether it takes single requests: then ``submit`` and ``finished`` are called rather than ``generate``."""
    adapter: bool = False
    """Whether ``sync`` takes the tensors of a LoRA adapter, by peft's names."""

    @abstractmethod
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order; the same seed and prompts give the same completions."""

    @abstractmethod
    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the trainer's weights (full tensors by Hugging Face name), and wake up."""

    def submit(self, key: Any, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        """Queue one request, where it takes ``single_requests``."""
        raise NotImplementedError

    def finished(self) -> list[tuple[Any, Completion]]:
        """Wait until at least one queued request is done. -> the keys and completions of those that are."""
        raise NotImplementedError

    def sleep(self) -> bool:
        """Give memory back while the trainer works. -> whether it did: ``sync`` then comes before the next request."""
        return False

    @abstractmethod
    def close(self) -> None: ...
