"""A rollout engine with its own weights is sent plain Hugging Face weights, or an adapter as peft saves it.

All ranks go over the modules in the same order and, under ZeRO 3, gather one module at a time: sharded weights exist in
full only while they are handed out. The trainer's model is not changed.
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
    """Yield every parameter and saved buffer of the language model, by its name in a plain Hugging Face checkpoint.

    The names are those of a ``state_dict()`` without adapters: an output embedding that is tied to the input embedding
    comes a second time, as ``lm_head.weight``. LoRA is merged, W + scale * B A computed in fp32 and rounded to the
    type of W; the scale is alpha / rank, or alpha / sqrt(rank) where it is rank-stabilised. A value head is left out.

    Args:
        engine: the policy's :class:`.deepspeed_backend.DeepSpeedEngine`; every rank must read to the end.
        module: the policy that it trains.

    Yields:
        A name and a tensor, which is valid until the next one is asked for.

    Raises:
        RunError: an adapter is more than a low-rank update of a linear layer.
    """
    model = module.language_model
    for prefix, layer in _layers(model):
        adapted = hasattr(layer, "base_layer")
        _refuse_unmergeable(prefix, layer)
        base = layer.get_base_layer() if adapted else layer
        with _gathered(engine, list(layer.parameters(recurse=adapted))), torch.no_grad():
            merged = merged_parameters(layer)
            for name, parameter in base.named_parameters(recurse=adapted):
                yield f"{prefix}{name}", merged.pop(name, parameter).detach()
        # buffers that a checkpoint does not hold are made by the engine's own model
        saved = base.state_dict().keys()
        for name, buffer in base.named_buffers(recurse=adapted):
            if name in saved:
                yield f"{prefix}{name}", buffer


def adapter_weights(engine: Any, module: Policy) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the policy's adapter, by its name in peft's ``adapter_model.safetensors``.

    Arguments and lifetime are those of :func:`full_weights`. The adapter's settings are written by peft itself
    (``PeftConfig.save_pretrained``).

    Yields:
        ``base_model.model....lora_A.weight`` and a tensor.
    """
    model = module.model
    for prefix, layer in _layers(model):
        if not hasattr(layer, "base_layer"):
            continue
        adapter = {name: p for name, p in layer.named_parameters() if name.startswith("lora_")}
        with _gathered(engine, list(adapter.values())):
            for name, parameter in adapter.items():
                # peft leaves the adapter's own name out of the names in its files
                yield f"{prefix}{name.replace(f'.{model.active_adapter}', '', 1)}", parameter.detach()


def _layers(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every module with the prefix of its names, parents first; an adapter and what it wraps are one module."""
    yield prefix, module
    if not hasattr(module, "base_layer"):
        for name, child in module.named_children():
            yield from _layers(child, f"{prefix}{name}.")


def _gathered(engine: Any, parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
    """Gather the shards of these parameters under ZeRO 3."""
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, enabled=engine.stage == 3)


def _refuse_unmergeable(prefix: str, layer: Any) -> None:
    """Raise RunError if an adapter of the layer cannot be merged."""
    while hasattr(layer, "base_layer"):
        if reason := not_mergeable(layer):
            raise RunError(
                f"the adapter of {prefix.removesuffix('.')} cannot be merged: it is {reason}",
                "model.lora.targets",
                "adapt linear layers only, with plain LoRA",
            )
        layer = layer.base_layer
