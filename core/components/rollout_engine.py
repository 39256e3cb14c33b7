"""Base classes of rollout engines, and the objects in which they state how much memory they need."""

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
    """The work of an engine beside the trainer, for a memory plan. Sizes are bytes."""

    weights: int
    """The size of a whole model."""
    row: int
    """The size of keys and values of a conversation as long as ``rollout.max_context``; 0 where it is not known."""
    row_pass: int
    """The memory of a forward pass over such a conversation."""
    rows: int
    """The number of conversations of one rank in the largest rollout."""
    ranks: int = 1
    """The number of processes that train, one on each of the first GPUs."""
    sharded: bool = False
    """Whether no rank holds a whole model, so that the engine is given one (ZeRO 3)."""
    gpu: int = 0
    """The memory of one GPU that the run may take, all of it or its share; 0 where it is not known."""
    token_pass: int = 0
    """The memory of a forward pass for each of its tokens."""
    draw: int = 0
    """The memory that drawing the next token takes for each conversation."""


@attrs.frozen
class Shortage:
    """Memory that an engine lacks because its own parameters allow it too little, however little the trainer takes."""

    need: int
    """The smallest memory with which it runs, in bytes."""
    key: str
    """The name of the parameter that allows it less."""
    fix: str
    """A sentence that says what to change."""


@attrs.frozen
class EngineMemory:
    """The memory that an engine takes of each GPU that trains. Sizes are bytes."""

    whole: bool = False
    """Whether it samples with a whole model of its own, so that no weights are gathered for it."""
    loading: int = 0
    """Memory that it holds while models are loaded."""
    resting: int = 0
    """Memory that it holds while the trainer works."""
    working: int = 0
    """Memory that it holds during a rollout, without what ``cache`` and ``passes`` count."""
    cache: int = 0
    """Keys and values of a rollout, where the engine counts them on their own."""
    passes: int = 0
    """Activations of its forward passes, where the engine counts them on their own."""
    process: int = 0
    """Memory that a process of its own holds from start to end, asleep or not: the CUDA context, captured graphs."""
    shortage: Shortage | None = None
    """The memory that it lacks, if any."""


class RolloutEngine(Component):
    """A rollout engine samples responses: it maps token ids to token ids with log-probs. Kind ``rollout_engine``."""

    __slots__ = ()

    greedy: ClassVar[bool] = True
    """Whether it can decode greedily, which the need ``greedy_rewards`` requires."""
    own_weights: ClassVar[bool] = False
    """Whether it samples with a copy of the policy's weights, which :meth:`RolloutEngineSession.sync` replaces."""

    @abstractmethod
    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> RolloutEngineSession:
        """Return a session that samples with ``model``.

        Args:
            model: a Hugging Face causal language model, shared with the trainer where the engine can do that.
            tokenizer: the model's tokenizer.
            max_context: the largest number of tokens of a prompt with its response, for engines that reserve memory.
        """

    def require(self, ranks: int = 1) -> None:
        """Check that it can run on this machine beside ``ranks`` training processes. No model is loaded yet.

        Raises:
            RequestError: it cannot.
        """

    def check_spread(self, heads: int, ranks: int = 1) -> None:
        """Check that a model of ``heads`` attention heads can be spread over its GPUs as its parameters ask for.

        Raises:
            RequestError: it cannot.
        """

    def memory(self, load: SamplingLoad) -> EngineMemory:
        """Return the memory that it takes of each GPU, for the check before a run and ``uncollapse memory-plan``.

        By default, an engine with ``own_weights`` always holds them and the cache of one conversation. Any other engine
        samples all conversations at once with the trainer's model.
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

    def within(self, load: SamplingLoad, card: int) -> RolloutEngine:
        """Return the engine with which a run stays within ``load.gpu`` bytes of a GPU that has ``card`` bytes.

        A run trains with what this returns, and is recorded with the engine that it was asked for: the two must sample
        the same. By default it is the engine itself.
        """
        return self

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Yield values of its parameters with which it takes less memory, smallest change first; by default none."""
        yield from ()


class RolloutEngineSession(ABC):
    """A rollout engine that is running."""

    __slots__ = ()

    single_requests: bool = False
    """Whether it takes requests one by one: then ``submit`` and ``finished`` are called instead of ``generate``."""
    adapter: bool = False
    """Whether ``sync`` accepts the tensors of a LoRA adapter under peft's names, instead of full weights."""

    @abstractmethod
    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """Sample one completion for each prompt, in order; the same seed and prompts give the same completions."""

    @abstractmethod
    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the weights by the trainer's (full tensors under Hugging Face names), and end any :meth:`sleep`."""

    def submit(self, key: Any, prompt: Sequence[int], sampling: Sampling, seed: int) -> None:
        """Queue one request, which :meth:`finished` later returns under ``key``. Needs ``single_requests``."""
        raise NotImplementedError

    def finished(self) -> list[tuple[Any, Completion]]:
        """Wait until a queued request is done, and return the keys and completions of all that are done."""
        raise NotImplementedError

    def poll(self) -> list[tuple[Any, Completion]]:
        """Do a short part of the work, and return what :meth:`finished` would, or nothing if no request is done yet.

        Between two calls requests are queued whose environments have answered meanwhile. By default it waits.
        """
        return self.finished()

    def sleep(self) -> bool:
        """Give memory back while the trainer works, and return whether it did.

        If so, :meth:`sync` is called before the next request.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """End the engine and give all memory back."""
