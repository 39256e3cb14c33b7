"""A token head takes the output layer as one matrix product, whatever wraps the layer.

A bias and an adapter become further columns of the hidden states and of the weight:

    x W' + b' + s (x A') B'  =  [x, 1, s x A'] [W, b, B]'

so each head computes them, and their gradients, without special code. A is [r, H], B is [V, r], s = alpha / r.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....core.errors import RequestError
from .adapters import KEY, not_mergeable


def as_product(layer: Any, hidden_N_H: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(hidden_N_K, weight_V_K)`` whose product is the logits of ``layer``; K is H for a plain linear layer.

    Raises:
        RequestError: the layer is wrapped by something else than a plain low-rank adapter.
    """
    layer = _unwrapped(layer)
    adapted = hasattr(layer, "base_layer")
    if adapted and (reason := not_mergeable(layer)):
        raise RequestError(f"the output layer's adapter is {reason}", KEY, "leave the output layer out")
    base = layer.base_layer if adapted else layer
    columns = [hidden_N_H]
    weights = [base.weight]
    if getattr(base, "bias", None) is not None:
        columns.append(hidden_N_H.new_ones(len(hidden_N_H), 1))
        weights.append(base.bias[:, None])
    for name in layer.active_adapters if adapted and not layer.disable_adapters else ():
        if name in layer.lora_A:
            down_r_H = layer.lora_A[name].weight
            inputs_N_H = layer.lora_dropout[name](hidden_N_H.to(down_r_H.dtype))
            columns.append(layer.scaling[name] * (inputs_N_H @ down_r_H.T))
            weights.append(layer.lora_B[name].weight)
    if len(columns) == 1:
        return hidden_N_H, base.weight
    dtype = base.weight.dtype
    return torch.cat([x.to(dtype) for x in columns], 1), torch.cat([x.to(dtype) for x in weights], 1)


def _unwrapped(layer: Any) -> Any:
    """Return the layer that computes, where peft trains a full copy of it (``modules_to_save``)."""
    if hasattr(layer, "modules_to_save"):
        active = not layer.disable_adapters and layer.active_adapters
        return layer.modules_to_save[active[0]] if active else layer.original_module
    if hasattr(layer, "token_adapter"):
        reason = "single tokens of the output layer have weights of their own (trainable tokens)"
        raise RequestError(reason, KEY, "leave the output layer out")
    return layer
