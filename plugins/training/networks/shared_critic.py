"""A critic without a network of its own: a scalar head on the policy's trunk, in the policy's passes and steps.

Under bfloat16 the head's weights are rounded to it, as DeepSpeed has all weights of a model in one type; what the
optimizer steps are their fp32 masters, and the values are computed in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .models import REFERENCE_HEAD, VALUE_HEAD, Policy, load_value_head, spread

if TYPE_CHECKING:
    from ....core.components import TokenHead, Wanted
    from ....core.compose.experiment import Critic
    from ..step.batch import Batch

HEAD = "value_head."
"""Where the head sits in the module."""

Tensors = dict[str, Tensor]
Saved = tuple[Tensors, dict[str, Any]]
"""Weights and optimizer state, by parameter name."""


class ValueHead(nn.Module):
    """A linear map from hidden states to one number, in fp32; zero to begin with."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_N_H: Tensor) -> Tensor:
        return hidden_N_H.float() @ self.weight[0].float() + self.bias.float()


class ActorCritic(Policy):
    """A policy that says the value (reward units) of the state before each sampled token in the same forward pass."""

    def __init__(self, model: Any, temperature: float, head: TokenHead = REFERENCE_HEAD, detach: bool = False) -> None:
        super().__init__(model, temperature, head)
        self.detach = detach
        self.value_head = ValueHead(self.language_model.get_decoder().config.get_text_config().hidden_size)

    def forward(
        self,
        batch: Batch,
        entropy: Wanted = "value",
        cache: Any = None,
        packed: bool = False,
        second_moment: Wanted = "none",
    ) -> dict[str, Tensor]:
        """``values`` [B, T] beside the policy's scores."""
        hidden_N_H = self.hidden_states(batch, cache, packed)
        values_N = self.value_head(hidden_N_H.detach() if self.detach else hidden_N_H)
        return {**self.token_scores(hidden_N_H, batch, entropy, second_moment), "values": spread(values_N, batch.mask)}


def with_value_head(policy: Policy, settings: Critic, checkpoint: Path | None = None) -> ActorCritic:
    """The policy with a head that is new, or that of a checkpoint's ``critic/``."""
    both = ActorCritic(policy.model, policy.temperature, policy.head, settings.detach)
    if checkpoint is not None:
        both.value_head.load_state_dict(load_value_head(checkpoint))
    return both


def save_head(weights: Tensors, directory: Path) -> None:
    """Write the head as that of a critic with a model of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name.removeprefix(HEAD): tensor for name, tensor in weights.items()}, directory / VALUE_HEAD)


def split(weights: Tensors, optimizer: dict[str, Any]) -> tuple[Saved, Saved]:
    """Weights and optimizer state of the policy, and those of the head: on disk as if they were two models."""

    def part(of_head: bool) -> Saved:
        def belongs(name: str) -> bool:
            return name.startswith(HEAD) == of_head

        by_name = {key: {name: x for name, x in optimizer[key].items() if belongs(name)} for key in ("state", "master")}
        groups = [group for group in optimizer["param_groups"] if belongs(group["params"][0])]
        own = {name: tensor for name, tensor in weights.items() if belongs(name)}
        return own, {**by_name, "param_groups": groups}

    return part(False), part(True)


def joined(policy: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """The state of the one optimizer, from the two on disk."""
    by_name = {key: {**policy[key], **head[key]} for key in ("state", "master")}
    return {**by_name, "param_groups": [*policy["param_groups"], *head["param_groups"]]}
