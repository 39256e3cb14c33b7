"""The sizes of a model that decide how much memory it takes, read from its configuration without its weights."""

from __future__ import annotations

import functools
from copy import copy
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ....core.compose.combinations import needs
from ..networks.adapters import add_adapter
from ..networks.model_folder import loading, read_config, require_unquantised
from ..networks.positions import check_positions
from ..networks.prepare import prepare_model

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment, Lora

COUNTED = {"full_attention", "sliding_attention", "chunked_attention"}
"""Names of the layers that keep keys and values of every token, or of a window of tokens."""
UNEVEN = {
    "kv_lora_rank": "latent attention",
    "num_kv_shared_layers": "layers that share keys and values",
    "global_head_dim": "heads of several sizes",
}
"""Attribute of a configuration -> why the layers of that model have no single size of keys and values."""


@attrs.frozen
class Shape:
    """The sizes of a decoder."""

    parameters: int
    """The number of parameters; shared ones count once."""
    trained: int
    """The number of parameters that an optimizer changes."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """The width of the MLP that one token goes through; in a mixture of experts, the sum over the token's experts."""
    vocabulary: int
    sliding: int = 0
    """The number of layers whose cache holds no more than the last ``window`` tokens."""
    window: int = 0
    """The number of tokens in the cache of a sliding layer."""
    unclear: str = ""
    """The reason why its layers cannot be counted, in words; only parameters and the token head are known then."""


def read_shapes(experiment: Experiment) -> tuple[Shape, Shape | None]:
    """Return the policy's shape, and the critic's if values are needed and it is a model of its own.

    Raises:
        RequestError: there is no model of that name or in that directory.
    """
    path, critic = str(prepare_model(experiment, warmed=False)), experiment.critic
    longest = experiment.rollout.max_context
    policy = _policy(path, experiment.model.lora)
    check_positions(read_config(path), longest, path)
    if critic is None or "values" not in needs(experiment) or critic.shared:
        return policy, None
    if critic.path is not None:
        check_positions(read_config(critic.path, "critic.path"), longest, critic.path, "critic.path")
    return policy, _critic(critic.path or path)


@functools.cache
def _policy(path: str, lora: Lora | None) -> Shape:
    config = read_config(path)
    require_unquantised(config, path)
    with loading(path):
        return policy_shape(config, lora)


@functools.cache
def _critic(path: str) -> Shape:
    config = read_config(path, "critic.path")
    require_unquantised(config, path, "critic.path")
    with loading(path, "critic.path"):
        return critic_shape(config)


def policy_shape(config: Any, lora: Lora | None = None) -> Shape:
    """Return the shape of the causal language model of ``config``, with an adapter where ``lora`` asks for one."""
    model = empty_policy(config, lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _shape(config, sum(p.numel() for p in model.parameters()), trained)


def empty_policy(config: Any, lora: Lora | None = None) -> Any:
    """Return the causal language model of ``config``, with any adapter, without weights: it takes no memory."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        return model if lora is None else add_adapter(model, lora)


def critic_shape(config: Any) -> Shape:
    """Return the shape of the same decoder with a scalar head."""
    from transformers import AutoModel

    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    count += config.get_text_config().hidden_size + 1
    return _shape(config, count, count)


def _shape(config: Any, parameters: int, trained: int) -> Shape:
    text = copy(config.get_text_config())
    text.allow_global_per_layer_attribute_access = True  # where layers differ, transformers asks for one of them

    def size(*names: str, default: int) -> int:
        """Return the first of these attributes that the configuration has."""
        values = (getattr(text, name, None) for name in names)
        return next(filter(None, values), default)

    heads = size("num_attention_heads", default=1)
    intermediate = size("intermediate_size", "n_inner", default=4 * text.hidden_size)
    if size("num_experts", "num_local_experts", "n_routed_experts", default=0) > 1:
        expert = size("moe_intermediate_size", default=intermediate)
        shared = size("shared_expert_intermediate_size", default=expert * size("n_shared_experts", default=0))
        intermediate = expert * size("num_experts_per_tok", default=1) + shared
    kinds = _kinds(text)
    return Shape(
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=text.hidden_size // heads),
        intermediate=intermediate,
        vocabulary=text.vocab_size,
        sliding=sum(kind != "full_attention" for kind in kinds),
        window=size("sliding_window", "attention_chunk_size", default=0),
        unclear=_unclear(text, kinds),
    )


def _kinds(text: Any) -> list[str]:
    """Return what each layer is, as transformers names it."""
    for name in ("layer_types", "layers_block_type"):
        if kinds := getattr(text, name, None):
            return list(kinds)
    if not getattr(text, "num_attention_heads", None):
        return ["no attention"] * text.num_hidden_layers
    if getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", None) is not False:
        return ["sliding_attention"] * text.num_hidden_layers
    chunked = bool(getattr(text, "attention_chunk_size", None))
    return ["chunked_attention" if chunked else "full_attention"] * text.num_hidden_layers


def _unclear(text: Any, kinds: list[str]) -> str:
    """Say why the layers cannot be counted; empty where they can."""
    if strange := sorted(set(kinds) - COUNTED):
        return f"layers of kind {', '.join(strange)}"
    if uneven := sorted(getattr(text, "per_layer_attributes", None) or ()):
        return f"layers that differ in {', '.join(uneven)}"
    reasons = (reason for name, reason in UNEVEN.items() if getattr(text, name, None))
    return next(reasons, "")
