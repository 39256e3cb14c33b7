"""The component ``vllm``: its parameters, and what it refuses before anything starts."""

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


def _share(instance: object, attribute: Any, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} is a share of the GPU's memory, above 0 and at most 1, got {value}")


@attrs.frozen
class VllmEngine(RolloutEngine):
    """Sample with vLLM, in a process of its own that shares the trainer's GPU or has others.

    Token ids go in, token ids and their log-probs come out: log_softmax(logits / temperature), vLLM's
    ``processed_logprobs``, over the whole vocabulary. Each conversation goes on as soon as its own turn is done, and
    prompts that begin alike (turns of one episode, members of a group) share their cache. Every turn has a seed of its
    own, so what is sampled does not depend on which conversations run beside it, up to rounding.

    While the trainer works, the engine sleeps: its KV cache, and its weights, give their memory back. It is woken in
    two stages, weights first, so that new weights arrive while the cache is still away. The trainer's weights are sent
    before each rollout as handles to the GPU's memory, which the engine copies from; with LoRA only the adapter is
    sent, and the engine reads the base model by itself.
    """

    greedy: ClassVar[bool] = True
    own_weights: ClassVar[bool] = True
    """It samples with a copy of the policy."""

    gpu_memory_utilization: float = attrs.field(default=0.3, validator=_share)
    """Share of the GPU's memory for weights, activations and KV cache while it is awake."""
    tensor_parallel: int = attrs.field(default=1, validator=[attrs.validators.ge(1), attrs.validators.le(1024)])
    """GPUs that hold one copy together; must divide the model's attention heads."""
    gpus: tuple[int, ...] = attrs.field(default=(), validator=attrs.validators.deep_iterable(attrs.validators.ge(0)))
    """Which GPUs (numbers as torch sees them) it runs on; none: the trainer's own, colocated."""
    sleep: bool = True
    """Whether it gives its memory back while the trainer works; only done where it shares the trainer's GPU."""
    lora: Literal["adapter", "merged"] = "adapter"
    """What is sent of a LoRA policy: the adapter alone, or the whole merged model."""
    max_num_seqs: int = attrs.field(default=256, validator=[attrs.validators.ge(1), attrs.validators.le(1 << 16)])
    """Conversations that are decoded at once, at most."""
    kv_cache_gib: float | None = attrs.field(
        default=None,
        validator=attrs.validators.optional([attrs.validators.gt(0), attrs.validators.le(10_000)]),
    )
    """Size of the KV cache; ``None``: what is left of ``gpu_memory_utilization`` (1 on a CPU)."""
    enforce_eager: bool = False
    """Whether to do without CUDA graphs: starts faster, decodes slower."""

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Why this engine cannot serve the experiment."""
        if self.gpus and len(self.gpus) != self.tensor_parallel:
            yield f"gpus names {len(self.gpus)} GPUs, and tensor_parallel is {self.tensor_parallel}"
        if len(set(self.gpus)) < len(self.gpus):
            yield "gpus names a GPU twice"
        lora = experiment.model.lora
        if lora is not None and self.lora == "adapter" and lora.rank > 512:
            yield f"it serves adapters of rank 512 at most, and model.lora.rank is {lora.rank}; set lora to merged"

    def require(self, ranks: int = 1) -> None:
        """Raises RequestError where vLLM cannot run beside ``ranks`` trainers; called before a model is loaded."""
        import torch

        from .installed import require_vllm

        gpu = torch.cuda.is_available()
        require_vllm(gpu, torch.cuda.get_device_capability() if gpu else None)
        self._check_ranks(ranks)
        key, seen = "rollout.engine: vllm", torch.cuda.device_count()
        if self.gpus and max(self.gpus) >= seen:
            fix = "name GPUs that are there (CUDA_VISIBLE_DEVICES says which)"
            raise RequestError(
                f"gpus names GPU {max(self.gpus)} (counted from 0), and torch sees {seen or 'none'}", key, fix
            )
        if gpu and not self.gpus and ranks == 1 and self.tensor_parallel > seen:
            fix = f"lower it to {seen} at most"
            raise RequestError(f"tensor_parallel is {self.tensor_parallel}, and torch sees {seen} GPUs", key, fix)

    def check_spread(self, heads: int, ranks: int = 1) -> None:
        """Raises RequestError where a model with so many attention heads cannot be spread over the GPUs like this."""
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
        """Weights, cache and passes live within its share of the GPU; without knowing that, the least is one row."""
        if self.gpus and not set(self.gpus) & set(range(load.ranks)):  # it has GPUs of its own
            return EngineMemory(whole=True)
        weights = math.ceil(load.weights / self.tensor_parallel)
        least = weights + math.ceil(load.row / self.tensor_parallel)
        taken = int(self.gpu_memory_utilization * load.gpu) or least
        if self.kv_cache_gib:
            taken = max(least, weights + int(self.kv_cache_gib * 2**30))
        return EngineMemory(
            whole=True,
            loading=weights,
            resting=0 if self.sleep else max(taken, least),
            working=max(taken, least),
            shortage=self._shortage(least, load.gpu) if taken < least else None,
        )

    def _shortage(self, least: int, gpu: int) -> Shortage:
        share = least / gpu + 0.05
        elsewhere = "a GPU with more memory, rollout.engine.tensor_parallel or GPUs of its own (rollout.engine.gpus)"
        fix = f"set it to {share:.2f} or more, or lower rollout.max_context" if share <= 0.95 else elsewhere
        return Shortage(least, "gpu_memory_utilization", fix)

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """To sleep while the trainer works, then a smaller share of the GPU."""
        asleep = {} if self.sleep else {"sleep": True}
        if asleep:
            yield asleep
        share = self.gpu_memory_utilization
        while share > 0.1:
            share = round(share - 0.05, 2)
            yield {**asleep, "gpu_memory_utilization": share}

    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> VllmSession:
        """``max_context``: the longest prompt and response together, in tokens; the model's own limit unless given."""
        from .start import start_session

        self.require()
        return start_session(self, model, tokenizer, max_context)
