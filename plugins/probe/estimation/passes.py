"""Passes over sampled tokens run forward at other parameters, in forward mode along a direction, or in reverse mode.

Every pass takes a policy (a module whose call gives ``logprobs`` and ``entropies`` of the tokens on a batch's mask, see
:class:`~...training.models.Policy`) and changes nothing in it: other parameters and tangents are put in place by a
functional call. Rows are cut into the same micro-batches in every pass and for any number of ranks, so that rounding is
the same too and cancels in differences. Every rank gets the whole result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from ...training.networks.models import REFERENCE_HEAD, Policy
from ...training.processes.ranks import Ranks
from ...training.step.batch import Batch
from . import shared_prefix
from .attention import DifferentiableAttention
from .cuts import Cuts

Direction = Mapping[str, Tensor]
"""Tensors by name of a parameter, each of its parameter's shape: a direction of what trains, or a gradient."""

Outputs = dict[str, Tensor]
TokenLoss = Callable[[Outputs, Batch], Tensor]
"""Function ``loss(scores, micro_batch)`` that gives the loss of every token, [b, t], zero off the mask."""


class Passes:
    """All passes over one batch of rows are made by one object of this class.

    Args:
        policy: the policy, which is not changed, and is evaluated without dropout.
        batch: right-padded rows.
        size: rows per pass that keeps what a gradient needs.
        ranks: the processes that share the rows.
        forward_size: rows per pass without gradients, which takes less memory; by default ``size``.
        budget: tokens per pass that keeps what a gradient needs, in place of both sizes, unless it is 0; a pass without
            takes as many more as the trainer's. Rows are packed, which the policy must be able to do.
    """

    def __init__(
        self,
        policy: nn.Module,
        batch: Batch,
        size: int,
        ranks: Ranks,
        forward_size: int | None = None,
        budget: int = 0,
    ) -> None:
        self.policy = policy
        self.batch = batch
        self.ranks = ranks
        self._packed: dict[str, bool] = {"packed": True} if budget else {}
        lengths: list[int] = batch.lengths.tolist()
        if budget:
            self._cuts = Cuts.by_budget(lengths, budget, ranks)
        else:
            self._cuts = Cuts.by_rows(lengths, size, forward_size or size, ranks)

    def forward(self, step: Direction | None = None, eta: float = 0.0) -> Outputs:
        """Return ``logprobs`` and ``entropies`` ([B, T] float64, nats) at theta + eta * step, or at theta itself."""
        moved = {name: p + eta * step[name].to(p) for name, p in trained(self.policy).items()} if step else {}
        return self._collect(self._cuts.forward, lambda part: self._scores(moved, part, **self._packed))

    def forward_mode(self, along: Direction, parameters: Direction | None = None) -> Outputs:
        """Compute log-probs, entropies and their derivatives along a direction in one pass; at theta by default.

        Returns:
            [B, T] float64: ``logprobs`` and ``entropies`` in nats, ``logprobs_rate`` and ``entropies_rate`` in nats per
            unit of the direction.
        """
        return self._collect(self._cuts.dual, lambda part: self._dual(part, along, lambda scores: scores, parameters))

    def loss_rates(self, loss: TokenLoss, along: Direction) -> Tensor:
        """Return the derivative of each token's loss along a direction ([B, T] float64), in one forward-mode pass.

        Summed over some tokens, it is the inner product of the direction with the gradient of their loss.
        """
        outputs = self._collect(
            self._cuts.dual, lambda part: self._dual(part, along, lambda scores: {"loss": loss(scores, part)})
        )
        return outputs["loss_rate"]

    def loss_gradient(self, loss: TokenLoss) -> dict[str, Tensor]:
        """Return the gradient of the loss summed over all tokens; 0 where the loss does not depend on a parameter."""
        return self._gradient(lambda scores, part, _: loss(scores, part))

    def weighted_gradient(self, logprob_weights: Tensor, entropy_weights: Tensor) -> dict[str, Tensor]:
        """Return the gradient of sum(logprob_weights * logprobs + entropy_weights * entropies), with [B, T] weights."""

        def weigh(scores: Outputs, part: Batch, rows: list[int]) -> Tensor:
            width = part.tokens.shape[1]
            of_logprobs = logprob_weights[rows, :width].to(scores["logprobs"])
            of_entropies = entropy_weights[rows, :width].to(scores["logprobs"])
            return of_logprobs * scores["logprobs"] + of_entropies * scores["entropies"]

        return self._gradient(weigh)

    def _gradient(self, loss: Callable[[Outputs, Batch, list[int]], Tensor]) -> dict[str, Tensor]:
        parameters = trained(self.policy)
        total: dict[str, Tensor] = {}
        with _evaluating(self.policy):
            for rows in self._cuts.gradient:
                part = self.batch.take(rows).to(self.ranks.device)
                value = loss(self._scores({}, part, entropy="gradient", **self._packed), part, rows).sum()
                gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
                for name, gradient in zip(parameters, gradients, strict=True):
                    if gradient is not None and name in total:
                        total[name] += gradient
                    elif gradient is not None:  # a copy, since two parameters may be given one tensor
                        total[name] = gradient.to(_at_least_fp32(gradient.dtype), copy=True).contiguous()
        for name, p in parameters.items():
            if name not in total:
                total[name] = torch.zeros_like(p, dtype=_at_least_fp32(p.dtype))
        return {name: self.ranks.sum(total[name]) for name in parameters}

    def _scores(self, parameters: Mapping[str, Tensor], part: Batch, **options: Any) -> Outputs:
        def call(rows: Batch, **more: Any) -> Outputs:
            if not parameters:
                return cast(Outputs, self.policy(rows, **more))
            return functional_call(self.policy, dict(parameters), (rows,), more)

        return shared_prefix.score(self.policy, call, part, **options)

    def _dual(
        self, part: Batch, along: Direction, outputs: Callable[[Outputs], Outputs], parameters: Direction | None = None
    ) -> Outputs:
        """Return ``outputs`` of the scores of a part, and beside each its derivative, under its name with ``_rate``."""
        with DifferentiableAttention(), forward_ad.dual_level():
            duals = {}
            for name, parameter in trained(self.policy).items():
                primal = parameters[name] if parameters else parameter.detach()
                duals[name] = forward_ad.make_dual(primal.to(parameter), along[name].to(parameter))
            result = {}
            for name, value in outputs(self._scores(duals, part)).items():
                primal, tangent = forward_ad.unpack_dual(value)
                result[name] = primal
                result[f"{name}_rate"] = torch.zeros_like(primal) if tangent is None else tangent
        return result

    @torch.no_grad()
    def _collect(self, cut: list[list[int]], compute: Callable[[Batch], Outputs]) -> Outputs:
        """Return the outputs of all micro-batches of all ranks in one [B, T] table each, in float64 on the CPU."""
        computed = []
        with _evaluating(self.policy):
            for rows in cut:
                outputs = compute(self.batch.take(rows).to(self.ranks.device))
                computed.append((rows, {name: value.double().cpu() for name, value in outputs.items()}))
        tables: Outputs = {}
        for rows, outputs in itertools.chain.from_iterable(self.ranks.gather(computed)):
            for name, value in outputs.items():
                table = tables.setdefault(name, torch.zeros(self.batch.mask.shape, dtype=torch.float64))
                table[rows, : value.shape[1]] = value
        return tables


def trained(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, by name."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def inner(a: Direction, b: Direction) -> float:
    """Return the inner product over all parameters, accumulated in float64."""
    return float(sum((a[name].double() * b[name].double()).sum().cpu() for name in a))


def norm(a: Direction) -> float:
    """Return the Euclidean norm over all parameters, accumulated in float64."""
    return inner(a, a) ** 0.5


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


@contextmanager
def _evaluating(policy: nn.Module) -> Iterator[None]:
    """Evaluate without dropout and with the reference head: all passes round alike, and it has a forward mode."""
    training = policy.training
    policy.eval()
    try:
        with policy.using(REFERENCE_HEAD) if isinstance(policy, Policy) else nullcontext():
            yield
    finally:
        policy.train(training)
