"""The engine's process is started with the architecture of a model."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import active_children
from typing import Any

from ....core.errors import RequestError
from ..positions import reach
from ..template import end_ids
from .pack_weights import SHARED
from .place import Place, deaf_to_interrupts
from .session import KEY, VllmSession, died, failures
from .watched import Watched

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM's adapter kernels are built for."""
SMALLEST_HEAD = 32
"""Smallest head size that vLLM's attention on a CPU can compute."""
SECOND_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
"""Environment variable by which vLLM uses its second model runner. That one samples for all seeded requests in one
kernel, while the first runner needs one for each request. Without the variable, vLLM 0.24 uses it for some
architectures only, and 0.32 wherever it can."""


def start_session(engine: Any, model: Any, tokenizer: Any, max_context: int | None) -> VllmSession:
    """Start the engine's process with the architecture of ``model``.

    The process begins with random weights (for a LoRA policy, those of the base model), so that
    :meth:`VllmSession.sync` must be called before the first request.

    Args:
        engine: the component.
        model: the policy.
        tokenizer: the policy's tokenizer.
        max_context: the largest number of tokens of a prompt with its response.

    Raises:
        RequestError: vLLM does not know the architecture, or ``tensor_parallel`` does not divide it.
        RunError: the process did not start.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
    from vllm import EngineArgs, LLMEngine, ModelRegistry

    adapter = engine.lora == "adapter" and hasattr(model, "get_base_model")
    network = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = network.config
    architecture = type(network).__name__
    if architecture not in ModelRegistry.get_supported_archs():
        raise RequestError(f"this vLLM does not know the architecture {architecture}", KEY, "set rollout.engine=hf")
    text = config.get_text_config()
    engine.check_spread(text.num_attention_heads)
    _check_served(network, max_context, adapter)
    place = Place(engine, network.device)
    _check_heads(text, place)
    folder = tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None, prefix="uncollapse-vllm-")
    settings = _settings(engine, network, place, max_context)
    lora = None
    if not adapter:
        # weights come with the first sync, so that vLLM only needs the configuration
        config.architectures = [architecture]
        config.save_pretrained(folder.name)
        settings |= {"model": folder.name, "load_format": "dummy"}
    else:
        lora = model.peft_config[model.active_adapter]
        rank = next(size for size in LORA_RANKS if size >= lora.r)
        settings |= {"model": network.name_or_path, "load_format": "auto"}
        settings |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
    ends = [token for token in end_ids(network, tokenizer) if token < text.vocab_size]
    # without it, results of the methods that we add to the worker are not decoded
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    others = active_children()
    arguments = EngineArgs(**settings)
    runner = {SECOND_RUNNER: "1"} if place.cuda and _has_second_runner(arguments, place) else {}
    with place.environment(**runner), failures("did not start"), deaf_to_interrupts():
        llm = LLMEngine.from_engine_args(arguments)
    watched = Watched([child for child in active_children() if child not in others], died())
    session = VllmSession(llm, watched, tokenizer, ends, place, folder, lora)
    try:
        session.rpc("uncollapse_bind", os.getpid(), folder.name)
    except BaseException:
        session.close()
        raise
    return session


def _settings(engine: Any, network: Any, place: Place, max_context: int | None) -> dict[str, Any]:
    """Return the arguments of vLLM's engine that do not depend on where it reads the model."""
    cache = engine.kv_cache_gib or (None if place.cuda else 1.0)
    return {
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": str(network.dtype).removeprefix("torch."),
        "max_model_len": max_context,
        "max_num_seqs": engine.max_num_seqs,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "kv_cache_memory_bytes": int(cache * 2**30) if cache else None,
        "tensor_parallel_size": engine.tensor_parallel,
        "enable_sleep_mode": place.sleeps,
        "enable_prefix_caching": True,
        # on a CPU, vLLM cannot rewind the random numbers of a prompt that was read in part
        "enable_chunked_prefill": place.cuda,
        "max_num_batched_tokens": None if place.cuda else max(8192, max_context or 0),
        "enforce_eager": engine.enforce_eager,
        "logprobs_mode": "processed_logprobs",
        "worker_extension_cls": "uncollapse.plugins.rollout.engine_vllm.receive_weights.WeightReceiver",
        "disable_log_stats": True,
    }


def _check_heads(text: Any, place: Place) -> None:
    """Raises RequestError where vLLM's attention on a CPU cannot compute heads of the model's size."""
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    if not place.cuda and size < SMALLEST_HEAD:
        reason = f"vLLM on a CPU has no attention for heads of {size}, only for {SMALLEST_HEAD} and more"
        raise RequestError(reason, KEY, "set rollout.engine=hf, or take a model with larger heads")


def _check_served(network: Any, max_context: int | None, adapter: bool) -> None:
    """Check that vLLM can serve the model, and computes with it what the trainer does.

    Raises:
        RequestError: it cannot.
    """
    longest = reach(network.config)
    if longest is not None and max_context is not None and max_context > longest.tokens:
        reason = f"vLLM serves no rows of {max_context} tokens with a model that has {longest.tokens} positions"
        raise RequestError(reason, KEY, f"set rollout.max_context={longest.tokens}, or rollout.engine=hf")
    beyond = [name for name, layer in network.named_modules() if hasattr(layer, "base_layer") and _is_special(layer)]
    if network.get_output_embeddings() is not None and hasattr(network.get_output_embeddings(), "base_layer"):
        beyond.append("the output layer")
    if adapter and beyond:
        reason = f"vLLM serves adapters of linear layers between the embeddings, and one is on {beyond[0]}"
        raise RequestError(reason, KEY, "set lora of the engine to merged: rollout.engine=vllm(lora=merged)")


def _is_special(layer: Any) -> bool:
    """Return whether an adapter belongs to a mixture's experts or router, whose weights share one module."""
    return hasattr(layer, "parameter_name")


def _has_second_runner(arguments: Any, place: Place) -> bool:
    """Return whether vLLM's second runner serves this model with these settings, by building its configuration."""
    with place.environment(**{SECOND_RUNNER: "1"}):
        try:
            arguments.create_engine_config()
        except ValueError:  # any other mistake is reported when the engine starts
            return False
    return True
