"""The next update has a loss, a gradient, and a direction that the optimizer makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ...training.processes.ranks import Ranks
from .directions import UpdateRule
from .passes import Passes
from .update import Update


class Step:
    """A step is what ``update`` makes of ``policy``, per unit of learning rate.

    Args:
        size: rows per pass with a gradient.
        forward_size: rows per pass without, by default ``size``.
    """

    def __init__(
        self,
        policy: nn.Module,
        update: Update,
        rule: UpdateRule,
        *,
        size: int,
        ranks: Ranks,
        forward_size: int | None = None,
    ) -> None:
        self.update = update
        self.rule = rule
        self._policy = policy
        self._sizes: dict[str, Any] = {"size": size, "ranks": ranks, "forward_size": forward_size}
        self.passes = Passes(policy, update.batch, **self._sizes)

    @cached_property
    def gradient(self) -> dict[str, Tensor]:
        """Gradient of the loss, which is minimised; before any clipping."""
        return self.passes.loss_gradient(self.update.loss)

    @cached_property
    def direction(self) -> dict[str, Tensor]:
        """Direction v: theta after the step is theta + eta * v."""
        return self.rule.direction(self.gradient)

    def prompt_gradients(self) -> Iterator[dict[str, Tensor]]:
        """Yield the gradient of each prompt of U, as if the batch were like it: their mean is :attr:`gradient`."""
        prompts = self.update.prompts()
        for rows in prompts:
            passes = Passes(self._policy, self.update.batch.take(rows), **self._sizes)
            yield {name: len(prompts) * g for name, g in passes.loss_gradient(self.update.loss).items()}

    def scaled(self, advantages: float) -> Step:
        """Return the step with all advantages multiplied by a number."""
        return Step(self._policy, self.update.scaled(advantages), self.rule, **self._sizes)

    def influences(self, weights: dict[str, Tensor]) -> tuple[Tensor, float]:
        """Return the shares of the inner product ``weights`` . v: [S] of the sequences, and that of momentum and decay.

        The denominator (and clipping) of the whole batch is held fixed, so that the shares add up to the whole.
        """
        carry, scale = self.rule.split(self.gradient)
        along = {name: weights[name] * scale[name] for name in weights}
        shares_S = -self.update.per_sequence(self.passes.loss_rates(self.update.loss, along))
        carried = sum(float((weights[name].double() * carry[name].double()).sum()) for name in carry)
        return shares_S, carried
