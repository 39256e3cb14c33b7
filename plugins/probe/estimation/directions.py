"""A direction v says where the next update moves the parameters: theta after the step is theta + eta * v.

There are two directions, never to be mixed: ``adamw`` is what the optimizer really does (momentum, second moment with
the new gradient in it, weight decay, clipping); ``preconditioned_gradient`` is the gradient alone over the root of the
saved second moment. Both have the form v = carry - scale * g of the gradient g of a loss that is minimised.
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
    """An update rule makes a direction of a gradient, computed in the precision of the gradient."""

    name: ClassVar[str]

    def direction(self, gradient: Direction) -> dict[str, Tensor]:
        """Return the direction v = carry - scale * g."""
        with torch.no_grad():
            return self._apply(dict(gradient))

    def split(self, gradient: Direction) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return (carry, scale) at this gradient, such that v = carry - scale * g, and every part of g has its share.

        ``carry`` is what the update would do without this batch (momentum, weight decay); ``scale`` holds the
        denominator (and any clipping) of the whole batch, so that the shares of the samples add up to v exactly.
        """
        carries, scales = {}, {}
        with torch.no_grad():
            factor = self._clipping(dict(gradient))
            for name, g in gradient.items():
                carry, scale = self._parts(name, factor * g)
                carries[name] = carry
                scales[name] = factor * scale
        return carries, scales

    def pull_back(self, gradient: Direction, weights: Direction) -> dict[str, Tensor]:
        """Return the derivative of the inner product ``weights`` . v by the gradient, with clipping and denominator.

        Its inner product with a small change of the gradient is the change of ``weights`` . v. So the delta method
        tells what the sampling of the update batch does to v.
        """
        leaves = {name: g.detach().clone().requires_grad_() for name, g in gradient.items()}
        with torch.enable_grad():
            products = [(weights[name].to(v) * v).sum() for name, v in self._apply(leaves).items()]
            derivatives = torch.autograd.grad(torch.stack(products).sum(), list(leaves.values()))
        return dict(zip(leaves, derivatives, strict=True))

    def push_forward(self, gradient: Direction, change: Direction) -> dict[str, Tensor]:
        """Return the change of v when the gradient changes by ``change``, to first order."""
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
    """AdamW takes one step from the saved state, as PyTorch does.

    With t = step + 1, m = b1 m + (1 - b1) g and s = b2 s + (1 - b2) g^2 (amsgrad: the largest so far),
    v = - (m / (1 - b1^t)) / (sqrt(s) / sqrt(1 - b2^t) + eps) - weight_decay * theta; before that g is clipped to
    g * min(1, max_norm / (|g| + 1e-6)). Source: torch.optim.AdamW, torch.nn.utils.clip_grad_norm_.
    """

    name: ClassVar[str] = "adamw"
    state: AdamState
    parameters: Mapping[str, Tensor]
    """Parameters theta, by name."""
    max_norm: float = 0.0
    """Largest global norm of the gradient, which is clipped to it; 0 does not clip."""

    def _parts(self, name: str, g: Tensor) -> tuple[Tensor, Tensor]:
        state, settings = self.state, self.state.settings[name]
        beta_1, beta_2 = settings.betas
        step = state.step[name] + 1
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
    """The gradient is divided by the root of the saved second moment: v = - g / (sqrt(s / (1 - b2^step)) + eps).

    There is no momentum, no weight decay and no clipping, and the new gradient does not enter the second moment.
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
    """Return the square root, with derivative 0 instead of infinity at 0, where all gradients so far are 0."""
    return torch.where(x > 0, x, 1.0).sqrt().where(x > 0, 0.0)
