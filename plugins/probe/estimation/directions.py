"""The direction of the next update, per unit of learning rate: theta after the step is theta + eta * v.

Two of them, never to be mixed: ``adamw`` is what the optimizer really does (momentum, second moment with the new
gradient in it, weight decay, clipping); ``preconditioned_gradient`` is the gradient alone over the root of the saved
second moment. Both have the form v = carry - scale * g of the gradient g of a loss that is minimised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch
from torch import Tensor

from ..checkpoint.adam_state import AdamState
from .passes import Direction


class UpdateRule(ABC):
    """Gradient -> direction. Everything is computed in the precision of the gradient."""

    name: ClassVar[str]

    def direction(self, gradient: Direction) -> dict[str, Tensor]:
        """The direction v = carry - scale * g."""
        with torch.no_grad():
            return self._apply(dict(gradient))

    def split(self, gradient: Direction) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(carry, scale) at this gradient, such that v = carry - scale * g, with a share of it for every part of g.

        ``carry`` is what the update would do without this batch (momentum, weight decay); ``scale`` holds the
        denominator (and any clipping) of the whole batch, so that the shares of the samples add up to v exactly.
        """
        with torch.no_grad():
            factor = self._clipping(dict(gradient))
            parts = {name: self._parts(name, factor * g) for name, g in gradient.items()}
        return {name: carry for name, (carry, _) in parts.items()}, {
            name: factor * scale for name, (_, scale) in parts.items()
        }

    def pull_back(self, gradient: Direction, weights: Direction) -> dict[str, Tensor]:
        """The derivative of the inner product of ``weights`` with v by the gradient, denominator and clipping included.

        Its inner product with a small change of the gradient is the change of that inner product: the delta method for
        what the sampling of the update batch does to v.
        """
        leaves = {name: g.detach().clone().requires_grad_() for name, g in gradient.items()}
        with torch.enable_grad():
            products = [(weights[name].to(v) * v).sum() for name, v in self._apply(leaves).items()]
            found = torch.autograd.grad(torch.stack(products).sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def push_forward(self, gradient: Direction, change: Direction) -> dict[str, Tensor]:
        """The change of v when the gradient changes by ``change``, to first order."""
        changes = {name: change[name].to(g) for name, g in gradient.items()}
        return torch.func.jvp(self._apply, (dict(gradient),), (changes,))[1]

    def _apply(self, gradient: dict[str, Tensor]) -> dict[str, Tensor]:
        factor = self._clipping(gradient)
        result = {}
        for name, g in gradient.items():
            carry, scale = self._parts(name, factor * g)
            result[name] = carry - scale * factor * g
        return result

    def _clipping(self, gradient: dict[str, Tensor]) -> Tensor | float:
        return 1.0

    @abstractmethod
    def _parts(self, name: str, g: Tensor) -> tuple[Tensor, Tensor]: ...


@attrs.frozen(eq=False)
class AdamW(UpdateRule):
    """One step of AdamW from the saved state, as PyTorch takes it.

    With t = step + 1, m = b1 m + (1 - b1) g and s = b2 s + (1 - b2) g^2 (amsgrad: the largest so far),
    v = - (m / (1 - b1^t)) / (sqrt(s) / sqrt(1 - b2^t) + eps) - weight_decay * theta; before that g is clipped to
    g * min(1, max_norm / (|g| + 1e-6)). Source: torch.optim.AdamW, torch.nn.utils.clip_grad_norm_.
    """

    name: ClassVar[str] = "adamw"
    state: AdamState
    parameters: Mapping[str, Tensor]
    """theta, by name."""
    max_norm: float = 0.0
    """Global norm of the gradient; 0 does not clip."""

    def _parts(self, name: str, g: Tensor) -> tuple[Tensor, Tensor]:
        state, settings = self.state, self.state.settings[name]
        (beta_1, beta_2), step = settings.betas, state.step[name] + 1
        second = beta_2 * state.exp_avg_sq[name].to(g) + (1 - beta_2) * g**2
        if settings.amsgrad:
            assert state.max_exp_avg_sq is not None
            second = torch.maximum(state.max_exp_avg_sq[name].to(g), second)
        denominator = _root(second) / (1 - beta_2**step) ** 0.5 + settings.eps
        correction = 1 - beta_1**step
        decay = settings.weight_decay * self.parameters[name].detach().to(g)
        carry = -beta_1 * state.exp_avg[name].to(g) / correction / denominator - decay
        return carry, (1 - beta_1) / correction / denominator

    def _clipping(self, gradient: dict[str, Tensor]) -> Tensor | float:
        if not self.max_norm:
            return 1.0
        squares = torch.stack([g.square().sum() for g in gradient.values()])
        return (self.max_norm / (_root(squares.sum()) + 1e-6)).clamp(max=1.0)


@attrs.frozen(eq=False)
class PreconditionedGradient(UpdateRule):
    """The gradient over the root of the saved second moment: v = - g / (sqrt(s / (1 - b2^step)) + eps).

    No momentum, no weight decay, no clipping, and the new gradient does not enter the second moment.
    """

    name: ClassVar[str] = "preconditioned_gradient"
    state: AdamState

    def _parts(self, name: str, g: Tensor) -> tuple[Tensor, Tensor]:
        settings, step = self.state.settings[name], self.state.step[name]
        second = self.state.exp_avg_sq[name].to(g)
        if step > 0:
            second = second / (1 - settings.betas[1] ** step)
        return torch.zeros_like(g), 1 / (second.sqrt() + settings.eps)


def _root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0 (where the gradient and all earlier ones vanish) instead of infinity."""
    return torch.where(x > 0, x, 1.0).sqrt().where(x > 0, 0.0)
