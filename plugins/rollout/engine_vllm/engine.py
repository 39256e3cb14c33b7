"""The component ``vllm`` holds the engine's parameters, and refuses what cannot run before anything starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from ....core.components import EngineMemory, RolloutEngine, SamplingLoad, Shortage
from ....core.errors import RequestError

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from .session import VllmSession


PROCESS = 3 * 2**28
"""Most bytes that the engine's process holds for its CUDA context and the kernels that it loads (0.75 GiB)."""
GRAPHS = 3 * 2**29
"""Most bytes of captured graphs and of what vLLM keeps beside its share of the GPU, also while it sleeps (1.5 GiB)."""
BATCHED_TOKENS = 16_384
"""Most tokens that vLLM reads in one pass, of all of its defaults."""


def _share(instance: object, attribute: Any, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} is a share of the GPU's memory, above 0 and at most 1, got {value}")


@attrs.frozen
class VllmEngine(RolloutEngine):
    """Sample with vLLM, in a process of its own that shares the trainer's GPU or has others.

    Log-probs are log_softmax(logits / temperature) over the whole vocabulary (vLLM's ``processed_logprobs``). Each
    conversation goes on as soon as its own turn is done, and prompts with the same beginning (turns of one episode,
    members of a group) share their cache. Every turn has its own seed, so that responses do not depend on which
    conversations run at the same time, up to rounding.

    While the trainer works, the engine sleeps: its KV cache, and its weights, give their memory back. It wakes in two
    stages, weights first, so that new weights arrive before the cache takes its memory. The trainer's weights are sent
    before each rollout as handles to the GPU's memory, which the engine copies from; with LoRA only the adapter is
    sent, and the engine reads the base model by itself.
    """

    greedy: ClassVar[bool] = True
    own_weights: ClassVar[bool] = True
    """Whether it samples with a copy of the policy's weights: it always does."""

    gpu_memory_utilization: float = attrs.field(default=0.3, validator=_share)
    """Share of the GPU's memory for weights, activations and KV cache while the engine is awake."""
    tensor_parallel: int = attrs.field(default=1, validator=[attrs.validators.ge(1), attrs.validators.le(1024)])
    """Number of GPUs that hold one copy together; it must divide the model's attention heads."""
    gpus: tuple[int, ...] = attrs.field(default=(), validator=attrs.validators.deep_iterable(attrs.validators.ge(0)))
    """Numbers of the GPUs it runs on, as torch counts them; none: the GPU of the trainer."""
    sleep: bool = True
    """Whether it gives its memory back while the trainer works. It only does so on the trainer's GPU."""
    lora: Literal["adapter", "merged"] = "adapter"
    """The part of a LoRA policy that is sent: the adapter alone, or the whole merged model."""
    max_num_seqs: int = attrs.field(default=256, validator=[attrs.validators.ge(1), attrs.validators.le(1 << 16)])
    """Largest number of conversations that are decoded at once."""
    kv_cache_gib: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.gt(0), attrs.validators.le(10_000)]),
    )
    """Size of the KV cache in GiB; ``None``: what is left of ``gpu_memory_utilization`` (1 on a CPU)."""
    enforce_eager: bool = False
    """Whether to do without CUDA graphs, which starts faster and decodes slower."""

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Yield the reasons why this engine cannot sample for the experiment."""
        if self.gpus and len(self.gpus) != self.tensor_parallel:
            yield f"gpus names {len(self.gpus)} GPUs, and tensor_parallel is {self.tensor_parallel}"
        if len(set(self.gpus)) < len(self.gpus):
            yield "gpus names a GPU twice"
        lora = experiment.model.lora
        if lora is not None and self.lora == "adapter" and lora.rank > 512:
            yield f"it serves adapters of rank 512 at most, and model.lora.rank is {lora.rank}; set lora to merged"

    def require(self, ranks: int = 1) -> None:
        """Check that vLLM can run beside ``ranks`` training processes, before a model is loaded.

        Raises:
            RequestError: it cannot.
        """
        import torch

        from .installed import require_vllm

        gpu = torch.cuda.is_available()
        require_vllm(gpu, torch.cuda.get_device_capability() if gpu else None)
        self._check_ranks(ranks)
        key = "rollout.engine: vllm"
        count = torch.cuda.device_count()
        if self.gpus and max(self.gpus) >= count:
            fix = "name GPUs that are there (CUDA_VISIBLE_DEVICES says which)"
            raise RequestError(
                f"gpus names GPU {max(self.gpus)} (counted from 0), and torch sees {count or 'none'}", key, fix
            )
        if gpu and not self.gpus and ranks == 1 and self.tensor_parallel > count:
            fix = f"lower it to {count} at most"
            raise RequestError(f"tensor_parallel is {self.tensor_parallel}, and torch sees {count} GPUs", key, fix)

    def check_spread(self, heads: int, ranks: int = 1) -> None:
        """Check that a model of ``heads`` attention heads can be spread over the GPUs.

        Raises:
            RequestError: it cannot.
        """
        self._check_ranks(ranks)
        if heads % self.tensor_parallel:
            raise RequestError(
                f"tensor_parallel {self.tensor_parallel} does not divide the model's {heads} attention heads",
                "rollout.engine: vllm",
                f"choose one of {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}",
            )

    def _check_ranks(self, ranks: int) -> None:
        if ranks > 1 and (self.gpus or self.tensor_parallel > 1):
            raise RequestError(
                f"each of the {ranks} ranks starts an engine of its own, and these would be on the same GPUs",
                "rollout.engine: vllm",
                "leave gpus and tensor_parallel out, or train with one rank",
            )

    def memory(self, load: SamplingLoad) -> EngineMemory:
        """Return its share of the GPU, which holds weights, cache and passes, and what its process holds beside it.

        Where the size of the GPU is not known, it is the least that the engine needs: its weights, passes and one row.
        """
        if not self._beside_trainer(load):
            return EngineMemory(whole=True)
        weights, passes, row = self._parts(load)
        least = weights + passes + row
        taken = int(self.gpu_memory_utilization * load.gpu) or least
        if self.kv_cache_gib:
            taken = max(least, weights + passes + int(self.kv_cache_gib * 2**30))
        return EngineMemory(
            whole=True,
            loading=weights,
            resting=0 if self.sleep else max(taken, least),
            working=max(taken, least),
            process=PROCESS + (0 if self.enforce_eager else GRAPHS),
            shortage=self._shortage(least, load.gpu) if taken < least else None,
        )

    def within(self, load: SamplingLoad, card: int) -> VllmEngine:
        """Return the engine with a cache of a size that is known, in place of a share of the whole GPU.

        vLLM sizes its cache by what it finds free while it starts, which says nothing where other runs start or end on
        the same GPU; and it refuses to start where its share is not free, also if it needs less. Neither is so with an
        explicit cache and a share that is no larger than what it needs. The cache is ``kv_cache_gib``, or else what
        weights and passes leave of ``gpu_memory_utilization`` of ``load.gpu``.
        """
        if not self._beside_trainer(load) or (self.kv_cache_gib is None and load.gpu >= card):
            return self
        weights, passes, row = self._parts(load)
        share = int(self.gpu_memory_utilization * load.gpu)
        cache = int(self.kv_cache_gib * 2**30) if self.kv_cache_gib else max(row, share - weights - passes)
        needed = (weights + passes + cache) / card
        return attrs.evolve(self, kv_cache_gib=cache / 2**30, gpu_memory_utilization=min(needed, 1.0))

    def _beside_trainer(self, load: SamplingLoad) -> bool:
        """Return whether it runs on a GPU that a trainer uses."""
        return not self.gpus or bool(set(self.gpus) & set(range(load.ranks)))

    def _parts(self, load: SamplingLoad) -> tuple[int, int, int]:
        """Return the bytes on each GPU of the weights, of the largest pass that vLLM tries out, and of one row."""
        passes = BATCHED_TOKENS * load.token_pass + self.max_num_seqs * load.draw
        weights, row = (math.ceil(size / self.tensor_parallel) for size in (load.weights, load.row))
        return weights, passes, row

    def _shortage(self, least: int, gpu: int) -> Shortage:
        share = least / gpu + 0.05
        elsewhere = "a GPU with more memory, rollout.engine.tensor_parallel or GPUs of its own (rollout.engine.gpus)"
        fix = f"set it to {share:.2f} or more, or lower rollout.max_context" if share <= 0.95 else elsewhere
        return Shortage(least, "gpu_memory_utilization", fix)

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Yield sleeping while the trainer works, then smaller shares of the GPU."""
        asleep = {} if self.sleep else {"sleep": True}
        if asleep:
            yield asleep
        share = self.gpu_memory_utilization
        while share > 0.1:
            share = round(share - 0.05, 2)
            yield {**asleep, "gpu_memory_utilization": share}

    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> VllmSession:
        """Start the engine's process.

        ``max_context`` is the largest number of tokens of a prompt with its response, the model's own limit unless
        given.
        """
        from .start import start_session

        self.require()
        return start_session(self, model, tokenizer, max_context)
