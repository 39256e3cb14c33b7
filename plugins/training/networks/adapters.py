"""Low-rank adapters: made or loaded by peft, and held to what every part of a run can compute with.

A run scores with the adapter, sends it to an engine merged or alone, and exports it merged. All of them agree where
every adapted module is a linear map with a weight of its own: W + (alpha / rank) B A (Hu et al. 2021).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....core.errors import RequestError
from .model_folder import check_finite, loading

if TYPE_CHECKING:
    from ....core.compose.experiment import Lora

KEY = "model.lora.targets"
FIX = (
    "take all-linear, a list of the last names of linear layers, such as [q_proj, v_proj], or a regular expression "
    "that their whole names match"
)
WEIGHTS = "adapter_model.safetensors"


def add_adapter(model: Any, lora: Lora) -> Any:
    """``model`` with a new low-rank adapter, which alone trains.

    Raises:
        RequestError: the model has no such modules, or an adapter on them could not be scored, merged and sent alike.
    """
    from peft import LoraConfig, get_peft_model

    if (widest := _widest(model)) < lora.rank:
        reason = f"an adapter of rank {lora.rank} is larger than what it adapts: the widest layer has {widest} numbers"
        raise RequestError(reason, "model.lora.rank", f"lower it, to {widest} at the very most")
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets if isinstance(lora.targets, str) else list(lora.targets),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied weights and Conv1D: the first are refused, the second are right
            adapted = get_peft_model(model, settings)
    except (ValueError, TypeError, NotImplementedError, re.error) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        unfit = re.match(r"Target module (\w+)\(.* is not supported", str(error), re.DOTALL)
        reason = f"a {unfit[1]} cannot be adapted: it is not a linear layer" if unfit else said[0]
        raise RequestError(reason, KEY, FIX) from error
    _check_matches(adapted, lora.targets)
    require_mergeable(adapted)
    return adapted


def _check_matches(adapted: Any, targets: str | tuple[str, ...]) -> None:
    """Peft is content if one name of a list matches."""
    if isinstance(targets, str) or adapted.peft_config["default"].target_parameters:  # experts by their old names
        return
    names = [f".{name}" for name, layer in adapted.get_base_model().named_modules() if hasattr(layer, "base_layer")]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise RequestError(f"no module of the model has the name {target!r}", KEY, FIX)


def load_adapter(model: Any, directory: Path) -> Any:
    """``model`` with the adapter that peft saved in ``directory``, ready to train on.

    Raises:
        RequestError: there is none, or its weights are damaged, not finite, or not those that its settings ask for.
    """
    from peft import PeftModel

    fix = "give an adapter that peft saved, and the model that it was trained on"
    with loading(directory, "model.lora", fix, "the weights cannot be loaded from"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing weights: told below
        adapted = PeftModel.from_pretrained(model, str(directory), is_trainable=True)
    check_finite(((name, p) for name, p in adapted.named_parameters() if p.requires_grad), directory, "model.lora")
    if (directory / WEIGHTS).is_file():
        _check_names(adapted, directory)
    return adapted


def _check_names(adapted: Any, directory: Path) -> None:
    """Peft leaves weights that are not in the file as they were made, and weights that it has no place for out."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(directory / WEIGHTS, "pt") as saved:
        names = set(saved.keys())
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # embeddings may be there as well, frozen and in full
    if different := (wanted - names) | {name for name in names - wanted if "lora_" in name}:
        raise RequestError(
            f"the adapter's weights and its settings disagree on {len(different)} tensors, e.g. {min(different)}",
            str(directory),
            "give the base model that the adapter was trained on",
        )


def require_mergeable(adapted: Any, zero_stage: int = 0) -> None:
    """Refuse adapters that are not a low-rank update of a weight that one module alone has.

    Raises:
        RequestError: a module that is adapted is not linear, computes in a way of its own, or shares its weight with
            another one, as tied embeddings do.
    """
    model = adapted.get_base_model()
    holders: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holders.setdefault(id(parameter), []).append(name.replace(".base_layer.", "."))
    for name, layer in model.named_modules():
        if not hasattr(layer, "base_layer"):
            continue
        if reason := not_mergeable(layer):
            raise RequestError(f"the adapter on {name} is {reason}", KEY, FIX)
        if zero_stage == 3 and hasattr(layer, "parameter_name"):
            reason = f"ZeRO 3 cannot shard a mixture's adapter on {name}, which is put into the weight in each pass"
            raise RequestError(reason, "trainer.zero_stage", f"set it to 2, or leave the experts out of {KEY}")
        others = [other for other in holders[id(adapted_parameter(layer))] if not other.startswith(f"{name}.")]
        if others and not name.endswith(".base_layer"):
            raise RequestError(
                f"the adapter on {name} would change one side of a tied weight: {others[0]} is the same one, and no "
                "merged or exported model could hold both",
                KEY,
                "name layers between the embeddings (all-linear takes every one of them), or give a model whose "
                "embeddings are not tied",
            )


@torch.no_grad()
def require_used(adapted: Any, tokens_1_T: Tensor) -> None:
    """Refuse adapters that the model passes by, as it reads the weight of the layer below instead of calling it.

    Raises:
        RequestError: there is one: merged into the weight it would count, while it trains it does not.
    """
    model = adapted.get_base_model()
    called: set[int] = set()
    hooks = [part.register_forward_hook(lambda part, *_: called.add(id(part))) for part in model.modules()]
    try:
        logits = model(input_ids=tokens_1_T, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    idle = []
    for name, layer in model.named_modules():
        # of a mixture's expert without tokens, or of a tower without images, nothing is called
        parent = model.get_submodule(name.rpartition(".")[0])
        if hasattr(layer, "base_layer") and id(layer) not in called and id(parent) in called:
            idle.append((name, adapted_parameter(layer)))
    before = [weight.clone() for _, weight in idle]
    for _, weight in idle:
        weight.mul_(2).add_(1)
    read = bool(idle) and not torch.equal(model(input_ids=tokens_1_T, use_cache=False).logits, logits)
    for (_, weight), value in zip(idle, before, strict=True):
        weight.copy_(value)
    if read:
        raise RequestError(
            f"{type(model).__name__} passes the adapter on {idle[0][0]} by: it reads the weight below, without the "
            "adapter",
            KEY,
            "name other linear layers, e.g. [q_proj, k_proj, v_proj, o_proj]",
        )


def not_mergeable(layer: Any) -> str:
    """Why what adapts ``layer`` is no plain low-rank update of its weight; empty if it is one."""
    from peft.tuners.lora import Linear, ParamWrapper

    base = layer.get_base_layer()
    linear = type(layer) is Linear and _is_linear(base)
    if not (linear or type(layer) is ParamWrapper) or not adapted_parameter(layer).is_floating_point():
        return f"not one of a linear layer: it is {type(layer).__name__} on {type(base).__name__}"
    if layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return "more than a low-rank update of the layer's weight (DoRA, a bias, or merged already)"
    return ""


def adapted_parameter(layer: Any) -> nn.Parameter:
    """The weight that ``layer`` adapts: of a mixture's experts, or of its router, one of several."""
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))


@torch.no_grad()
def merged_parameters(layer: Any) -> dict[str, Tensor]:
    """The weights that ``layer``, and what it wraps, adapt, by their names in the layer below: summed up in fp32 and
    rounded to their own type.
    """
    merged: dict[str, Tensor] = {}
    while hasattr(layer, "base_layer"):
        weight = adapted_parameter(layer)
        total = weight.float()
        for name in layer.active_adapters:
            if name in layer.lora_A:
                total = total + _update(layer, name)
        merged[getattr(layer, "parameter_name", "weight")] = total.to(weight.dtype)
        layer = layer.base_layer
    return merged


def _update(layer: Any, name: str) -> Tensor:
    if hasattr(layer, "parameter_name"):
        return layer.get_delta_weight(name).float()
    update = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
    return layer.scaling[name] * (update.T if layer.fan_in_fan_out else update)


def _is_linear(base: Any) -> bool:
    """Whether a layer computes what its class says; a class of its own is asked, as a few only write it otherwise."""
    from transformers.pytorch_utils import Conv1D

    if type(base).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    if not isinstance(base, nn.Linear) or base.weight.is_meta:
        return isinstance(base, nn.Linear)
    weight = base.weight
    inputs = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device, dtype=weight.dtype).view(2, -1)
    with torch.no_grad():
        found, expected = base(inputs), nn.functional.linear(inputs, weight, base.bias)
    return isinstance(found, Tensor) and torch.allclose(found, expected, rtol=1e-2, atol=1e-3)


def _widest(model: Any) -> int:
    """The largest size of a weight of the trunk's."""
    embeddings = {id(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    layers = (layer for layer in model.modules() if id(layer) not in embeddings)
    return max((max(p.shape) for layer in layers for p in layer.parameters(recurse=False) if p.ndim > 1), default=1)
