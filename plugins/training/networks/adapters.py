"""Low-rank adapters are made or loaded by peft, and checked: every part of a run must be able to compute with them.

A run scores with the adapter, sends it to an engine merged or alone, and exports it merged. All of these agree if
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
    """Put a new low-rank adapter on ``model``; only the adapter trains.

    Raises:
        RequestError: the model has no such modules, or scoring, merging and sending an adapter on them would disagree.
    """
    from peft import LoraConfig, get_peft_model

    widest = _widest(model)
    if widest < lora.rank:
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
            # peft warns of tied weights, which are refused below, and of Conv1D, which is right as it is
            warnings.simplefilter("ignore")
            adapted = get_peft_model(model, settings)
    except (ValueError, TypeError, NotImplementedError, re.error) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        unsupported = re.match(r"Target module (\w+)\(.* is not supported", str(error), re.DOTALL)
        reason = f"a {unsupported[1]} cannot be adapted: it is not a linear layer" if unsupported else lines[0]
        raise RequestError(reason, KEY, FIX) from error
    _check_matches(adapted, lora.targets)
    require_mergeable(adapted)
    return adapted


def _check_matches(adapted: Any, targets: str | tuple[str, ...]) -> None:
    """Refuse a list of targets in which one matches nothing: peft accepts it if any other one matches."""
    # the old names of a mixture's experts have become target_parameters, and no module has those names
    if isinstance(targets, str) or adapted.peft_config["default"].target_parameters:
        return
    names = [f".{name}" for name, layer in adapted.get_base_model().named_modules() if hasattr(layer, "base_layer")]
    for target in targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise RequestError(f"no module of the model has the name {target!r}", KEY, FIX)


def load_adapter(model: Any, directory: Path) -> Any:
    """Put the adapter that peft saved in ``directory`` on ``model``, ready to be trained further.

    Raises:
        RequestError: there is no adapter, or its weights are damaged, not finite, or not those that its settings ask
            for.
    """
    from peft import PeftModel

    fix = "give an adapter that peft saved, and the model that it was trained on"
    with loading(directory, "model.lora", fix, "the weights cannot be loaded from"), warnings.catch_warnings():
        # peft warns of missing weights, which are refused below
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(model, str(directory), is_trainable=True)
    check_finite(((name, p) for name, p in adapted.named_parameters() if p.requires_grad), directory, "model.lora")
    if (directory / WEIGHTS).is_file():
        _check_names(adapted, directory)
    return adapted


def _check_names(adapted: Any, directory: Path) -> None:
    """Refuse a file whose weights are not those that the settings ask for.

    Peft accepts it: it keeps the initial values of weights that the file lacks, and drops weights that it has no place
    for.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(directory / WEIGHTS, "pt") as saved:
        names = set(saved.keys())
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    # the file may hold the embeddings as well, frozen and in full
    different = (wanted - names) | {name for name in names - wanted if "lora_" in name}
    if different:
        raise RequestError(
            f"the adapter's weights and its settings disagree on {len(different)} tensors, e.g. {min(different)}",
            str(directory),
            "give the base model that the adapter was trained on",
        )


def require_mergeable(adapted: Any, zero_stage: int = 0) -> None:
    """Refuse adapters that are not a low-rank update of a weight that one module alone has.

    Raises:
        RequestError: an adapted module is not linear, computes in a special way, or shares its weight with another
            one, as tied embeddings do.
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
    """Refuse adapters that the model ignores, because it reads the weight of a layer instead of calling the layer.

    Raises:
        RequestError: there is such an adapter. It would have no effect in training, and an effect once merged.
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
        # a mixture's expert without tokens, or a tower without images, is not called at all: that says nothing
        parent = model.get_submodule(name.rpartition(".")[0])
        if hasattr(layer, "base_layer") and id(layer) not in called and id(parent) in called:
            idle.append((name, adapted_parameter(layer)))
    # change the weights of the layers that were not called: if the logits change, the model reads these weights
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
    """Say why the adapter of ``layer`` is no plain low-rank update of its weight; empty if it is one."""
    from peft.tuners.lora import Linear, ParamWrapper

    base = layer.get_base_layer()
    linear = type(layer) is Linear and _is_linear(base)
    if not (linear or type(layer) is ParamWrapper) or not adapted_parameter(layer).is_floating_point():
        return f"not one of a linear layer: it is {type(layer).__name__} on {type(base).__name__}"
    if layer.merged or layer.lora_variant or any(layer.lora_bias.values()):
        return "more than a low-rank update of the layer's weight (DoRA, a bias, or merged already)"
    return ""


def adapted_parameter(layer: Any) -> nn.Parameter:
    """Return the weight that ``layer`` adapts; a mixture's experts, or its router, have several under other names."""
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))


@torch.no_grad()
def merged_parameters(layer: Any) -> dict[str, Tensor]:
    """Merge the adapters of ``layer``, and of the adapted layers that it wraps, into the weights that they adapt.

    Weights are summed in fp32, rounded to their own type, and returned by their names in the layer below.
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
    """Compute what the adapter ``name`` adds to the weight of ``layer``, in fp32."""
    if hasattr(layer, "parameter_name"):
        return layer.get_delta_weight(name).float()
    product = layer.lora_B[name].weight.float() @ layer.lora_A[name].weight.float()
    return layer.scaling[name] * (product.T if layer.fan_in_fan_out else product)


def _is_linear(base: Any) -> bool:
    """Say whether a layer computes a plain linear map.

    A subclass of ``nn.Linear`` is tried on numbers, because some subclasses only write the same map in another way.
    """
    from transformers.pytorch_utils import Conv1D

    if type(base).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    if not isinstance(base, nn.Linear) or base.weight.is_meta:
        return isinstance(base, nn.Linear)
    weight = base.weight
    inputs = torch.linspace(-1, 1, 2 * weight.shape[1], device=weight.device, dtype=weight.dtype).view(2, -1)
    with torch.no_grad():
        outputs = base(inputs)
        expected = nn.functional.linear(inputs, weight, base.bias)
    return isinstance(outputs, Tensor) and torch.allclose(outputs, expected, rtol=1e-2, atol=1e-3)


def _widest(model: Any) -> int:
    """Return the largest dimension of a weight matrix outside of the embeddings."""
    embeddings = {id(layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    widest = 1
    for layer in model.modules():
        if id(layer) not in embeddings:
            for parameter in layer.parameters(recurse=False):
                if parameter.ndim > 1:
                    widest = max(widest, *parameter.shape)
    return widest
