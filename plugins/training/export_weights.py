"""What a rollout engine with weights of its own is sent: plain Hugging Face weights, or an adapter as peft saves it.

All ranks walk over the modules in the same order and, under ZeRO 3, gather one module at a time: what is sharded exists
in full only while it is handed out. Nothing of the trainer's is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...core.errors import RunError

if TYPE_CHECKING:
    from .models import Policy


def full_weights(engine: Any, module: Policy) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and saved buffer of the language model, by its name in a plain Hugging Face checkpoint.

    The names are those of a ``state_dict()`` without adapters: an output embedding that is tied to the input embedding
    comes a second time, as ``lm_head.weight``. LoRA is merged on the way, W + scale * B A in fp32 and rounded to the
    type of W; the scale is alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised. A value head is left out.

    Args:
        engine: the policy's :class:`.deepspeed_backend.DeepSpeedEngine`; every rank must walk to the end.
        module: the policy that it trains.

    Yields:
        A name and a tensor, which is good until the next one is asked for.

    Raises:
        RunError: an adapter is more than a low-rank update of a linear layer.
    """
    model = module.language_model
    saved = model.state_dict().keys()
    for prefix, layer in _layers(model):
        adapted = hasattr(layer, "base_layer")
        parameters = list(layer.parameters(recurse=adapted))
        with _gathered(engine, parameters), torch.no_grad():
            for name, parameter in (layer.base_layer if adapted else layer).named_parameters(recurse=False):
                merged = adapted and name == "weight"
                yield f"{prefix}{name}", _merged(prefix, layer) if merged else parameter.detach()
        named_buffers = ((f"{prefix}{name}", buffer) for name, buffer in layer.named_buffers(recurse=False))
        yield from ((name, buffer) for name, buffer in named_buffers if name in saved)


def adapter_weights(engine: Any, module: Policy) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the policy's adapter, by its name in peft's ``adapter_model.safetensors``.

    Arguments and lifetime are those of :func:`full_weights`. The adapter's settings are written by peft itself
    (``PeftConfig.save_pretrained``).

    Yields:
        ``base_model.model....lora_A.weight`` and a tensor.
    """
    model = module.model
    for prefix, layer in _layers(model):
        if not hasattr(layer, "base_layer"):
            continue
        own = {name: p for name, p in layer.named_parameters() if name.startswith("lora_")}
        with _gathered(engine, list(own.values())):
            for name, parameter in own.items():
                yield f"{prefix}{name.replace(f'.{model.active_adapter}', '', 1)}", parameter.detach()


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every module with its prefix, parents first; what an adapter wraps is not taken apart."""
    yield prefix, module
    if not hasattr(module, "base_layer"):
        for name, child in module.named_children():
            yield from _layers(child, f"{prefix}{name}.")


def _gathered(engine: Any, parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, enabled=engine.stage == 3)


def _merged(prefix: str, layer: Any) -> Tensor:
    weight = layer.base_layer.weight
    linear = layer.lora_A and weight.ndim == 2 and weight.is_floating_point()
    if not linear or layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        raise RunError(
            f"the adapter of {prefix.removesuffix('.')} ({type(layer).__name__} on {type(layer.base_layer).__name__}) "
            "cannot be merged: it is more than a low-rank update of a linear layer's weight",
            "model.lora.targets",
            "adapt linear layers only, with plain LoRA",
        )
    total = weight.float()
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A:
            update = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float()
            total = total + layer.scaling[adapter] * (update.T if layer.fan_in_fan_out else update)
    return total.to(weight.dtype)
