"""A shared critic is a scalar head on the policy's trunk; it takes part in the policy's passes and steps.

Under bfloat16 the head's weights are rounded to it, as DeepSpeed keeps all weights of a model in one type; the
optimizer changes their fp32 masters, and the values are computed in fp32.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .models import REFERENCE_HEAD, VALUE_HEAD, Policy, load_value_head, on_mask

if TYPE_CHECKING:
    from ....core.components import TokenHead, Wanted
    from ....core.compose.experiment import Critic
    from ..step.batch import Batch

HEAD = "value_head."
"""Beginning of the names of the head's parameters in the module."""

Tensors = dict[str, Tensor]
Saved = tuple[Tensors, dict[str, Any]]
"""Type of weights and optimizer state, by parameter name."""


class ValueHead(nn.Module):
    """A value head is a linear map from hidden states to one number, in fp32; it is zero at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_N_H: Tensor) -> Tensor:
        return hidden_N_H.float() @ self.weight[0].float() + self.bias.float()


class ActorCritic(Policy):
    """An actor-critic is a policy that also gives the value (reward units) of the state before each sampled token."""

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
        collision_prob: Wanted = "none",
    ) -> dict[str, Tensor]:
        """Return ``values`` [B, T] in reward units, together with the policy's scores."""
        hidden_N_H = self.hidden_states(batch, cache, packed)
        values_N = self.value_head(hidden_N_H.detach() if self.detach else hidden_N_H)
        scores = self.token_scores(hidden_N_H, batch, entropy, second_moment, collision_prob)
        return {**scores, "values": on_mask(values_N, batch.mask)}


def with_value_head(policy: Policy, settings: Critic, checkpoint: Path | None = None) -> ActorCritic:
    """Give the policy a value head, which is new or comes from a checkpoint's ``critic/``."""
    actor_critic = ActorCritic(policy.model, policy.temperature, policy.head, settings.detach)
    if checkpoint is not None:
        actor_critic.value_head.load_state_dict(load_value_head(checkpoint))
    return actor_critic


def save_head(weights: Tensors, directory: Path) -> None:
    """Write the head in the format of a critic that has its own model."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name.removeprefix(HEAD): tensor for name, tensor in weights.items()}, directory / VALUE_HEAD)


def split(weights: Tensors, optimizer: dict[str, Any]) -> tuple[Saved, Saved]:
    """Split weights and optimizer state into those of the policy and those of the head.

    On disk they stand as if they were two models.
    """
    return _part(weights, optimizer, of_head=False), _part(weights, optimizer, of_head=True)


def _part(weights: Tensors, optimizer: dict[str, Any], *, of_head: bool) -> Saved:
    """Select what belongs to the head, or what does not."""

    def belongs(name: str) -> bool:
        return name.startswith(HEAD) == of_head

    def selected(by_name: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in by_name.items() if belongs(name)}

    groups = [group for group in optimizer["param_groups"] if belongs(group["params"][0])]
    states = {"state": selected(optimizer["state"]), "master": selected(optimizer["master"])}
    return selected(weights), {**states, "param_groups": groups}


def joined(policy: dict[str, Any], head: dict[str, Any]) -> dict[str, Any]:
    """Join the two optimizer states on disk into that of the one optimizer."""
    by_name = {key: {**policy[key], **head[key]} for key in ("state", "master")}
    return {**by_name, "param_groups": [*policy["param_groups"], *head["param_groups"]]}
