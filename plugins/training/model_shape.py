"""What of a model decides how much memory it takes, read from its configuration: no weights are loaded."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ...core.compatibility import needs
from .models import add_adapter, read_config
from .prepare import prepare_model

if TYPE_CHECKING:
    from ...core.experiment import Experiment, Lora


@attrs.frozen
class Shape:
    """Sizes of a decoder; ``parameters`` counts shared ones once, ``trained`` only those that an optimizer moves."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the MLP that one token goes through (of a mixture: of the experts that it is sent to)."""
    vocabulary: int


def read_shapes(experiment: Experiment) -> tuple[Shape, Shape | None]:
    """The policy's shape, and the critic's where values are needed and it is a model of its own.

    Raises:
        RequestError: there is no model of that name or in that directory.
    """
    path, critic = str(prepare_model(experiment)), experiment.critic
    policy = _policy(path, experiment.model.lora)
    if critic is None or "values" not in needs(experiment) or critic.shared:
        return policy, None
    return policy, _critic(critic.path or path)


@functools.cache
def _policy(path: str, lora: Lora | None) -> Shape:
    return policy_shape(read_config(path), lora)


@functools.cache
def _critic(path: str) -> Shape:
    return critic_shape(read_config(path))


def policy_shape(config: Any, lora: Lora | None = None) -> Shape:
    """Of the causal language model of ``config``, with an adapter where ``lora`` asks for one."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        if lora is not None:
            model = add_adapter(model, lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _shape(config, sum(p.numel() for p in model.parameters()), trained)


def critic_shape(config: Any) -> Shape:
    """Of the same decoder with a scalar head."""
    from transformers import AutoModel

    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    count += config.get_text_config().hidden_size + 1
    return _shape(config, count, count)


def _shape(config: Any, parameters: int, trained: int) -> Shape:
    text = config.get_text_config()

    def size(*names: str, default: int) -> int:
        """The first that the architecture has; what it lacks decides no lower bound."""
        return next((found for name in names if (found := getattr(text, name, None))), default)

    heads = size("num_attention_heads", default=1)
    expert = size("moe_intermediate_size", default=0) * size("num_experts_per_tok", default=1)
    return Shape(
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=size("num_key_value_heads", default=heads),
        head_dim=size("head_dim", default=text.hidden_size // heads),
        intermediate=expert or size("intermediate_size", "n_inner", default=4 * text.hidden_size),
        vocabulary=text.vocab_size,
    )
