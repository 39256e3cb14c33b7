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

from ....core.errors import RunError
from ..networks.adapters import merged_parameters, not_mergeable

if TYPE_CHECKING:
    from ..networks.models import Policy


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
    for prefix, layer in _layers(model):
        adapted = hasattr(layer, "base_layer")
        _refuse_unmergeable(prefix, layer)
        parameters, base = list(layer.parameters(recurse=adapted)), layer.get_base_layer() if adapted else layer
        with _gathered(engine, parameters), torch.no_grad():
            merged = merged_parameters(layer)
            for name, parameter in base.named_parameters(recurse=adapted):
                yield f"{prefix}{name}", merged.pop(name, parameter).detach()
        saved = base.state_dict().keys()
        named_buffers = base.named_buffers(recurse=adapted)
        yield from ((f"{prefix}{name}", buffer) for name, buffer in named_buffers if name in saved)


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


def _refuse_unmergeable(prefix: str, layer: Any) -> None:
    while hasattr(layer, "base_layer"):
        if reason := not_mergeable(layer):
            raise RunError(
                f"the adapter of {prefix.removesuffix('.')} cannot be merged: it is {reason}",
                "model.lora.targets",
                "adapt linear layers only, with plain LoRA",
            )
        layer = layer.base_layer
