"""The reference of a KL term is the start model, until a KL controller moves it towards the policy.

A moved reference stands in the checkpoint, by parameter name; one that never moved does not, since the start model is
found again (:mod:`.start_model`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ....core.components import Scores, TrainEngine
from ....core.errors import RequestError, RunError
from ..networks.model_folder import check_finite, loading
from ..networks.models import Policy
from ..processes.ranks import Ranks
from ..step.batch import Batch

FILE = "reference.safetensors"
"""File in a checkpoint with the weights of a reference that has moved, fp32 where they are mixed in fp32."""
KEY = "kl.controller"
FIX = "continue from an earlier checkpoint"
Weights = dict[str, Tensor]


class Reference(ABC):
    """The reference of a run; it scores, moves when it is told to, and knows what a checkpoint must keep of it."""

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        self._policy = policy
        self._ranks = ranks
        self.moves_begun = 0
        """Number of moves that have begun in this process; it grows before any weight changes."""

    @abstractmethod
    def score(self, batch: Batch, **options: Any) -> Scores:
        """Score a batch under the reference, without gradients; ``options`` go to the module."""

    def move(self, policy: TrainEngine, share: float) -> None:
        """Make each weight ``share`` times the policy's plus ``1 - share`` times its own; every rank takes part.

        With a share of 1 the reference then computes what the policy computes, bit for bit.
        """
        self.moves_begun += 1
        self._move(policy, share)

    @abstractmethod
    def _move(self, policy: TrainEngine, share: float) -> None: ...

    @abstractmethod
    def weights(self) -> Weights:
        """Return what a checkpoint keeps, on the CPU; nothing as long as the reference is the start model."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`weights` returned."""

    def _score(self, batch: Batch, **options: Any) -> Scores:
        self._policy.eval()
        return Scores(**self._policy(batch.to(self._ranks.device), **options))


class ReferenceModel(Reference):
    """A frozen model of its own, whole on every rank.

    Where it moves by parts, weights of 16 bits are mixed in fp32, from the policy's fp32 weights into fp32 weights of
    the reference in the machine's memory. The policy moves by less than the distance of two numbers in bfloat16: mixed
    in that type the reference would stay where it is with a share below one half, and become the policy with a larger
    one.
    """

    def __init__(self, policy: Policy, ranks: Ranks, by_parts: bool = False) -> None:
        """Begin with ``policy``; ``by_parts`` says that it moves by shares below 1, too."""
        super().__init__(policy, ranks)
        self._by_parts = by_parts
        self._parameters: dict[str, Tensor] = {name: p.detach() for name, p in policy.named_parameters()}
        self._master: Weights = {}
        """Weights in fp32 behind parameters of 16 bits, from the first move on."""
        self._moved = False

    @torch.no_grad()
    def score(self, batch: Batch, **options: Any) -> Scores:
        return self._score(batch, **options)

    @torch.no_grad()
    def _move(self, policy: TrainEngine, share: float) -> None:
        self._moved = True
        missing = set(self._parameters)
        # one tensor after the other: under ZeRO 3 each is gathered when its turn comes
        for name, weight in policy.fp32_weights() if self._by_parts else ():
            if name in missing:
                self._mix(name, weight, share)
                missing.remove(name)
        for name, weight in policy.weights():
            if name in missing:
                self._mix(name, weight, share)
                missing.remove(name)
        if missing:
            reason = f"the training backend gives no weight {min(missing)}, which the reference has"
            raise RunError(reason, "trainer.backend", "set kl.controller to one that leaves the reference as it is")

    def _mix(self, name: str, weight: Tensor, share: float) -> None:
        """Move one weight; 16 bits are rounded from fp32 once, after the mix."""
        parameter = self._parameters[name]
        mixed = parameter
        if self._by_parts and parameter.dtype != torch.float32:
            mixed = self._master.setdefault(name, parameter.float().cpu())
        if share == 1:
            mixed.copy_(weight)
        else:
            mixed.mul_(1 - share).add_(weight.to(mixed), alpha=share)
        if mixed is not parameter:
            parameter.copy_(mixed)

    def weights(self) -> Weights:
        if not self._moved:
            return {}
        return {name: self._master.get(name, p).cpu().contiguous() for name, p in self._parameters.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        _require_names(weights, self._parameters)
        self._moved = True
        for name, weight in weights.items():
            parameter = self._parameters[name]
            parameter.copy_(weight)
            if self._by_parts and parameter.dtype != torch.float32:
                self._master[name] = weight.float()


class ReferenceAdapter(Reference):
    """The policy without its adapter; or, once it has moved, with the adapter of an earlier policy.

    It moves by the whole way only. A mix of two adapters is no adapter of their rank: (1 - s) B1 A1 + s B2 A2 is not
    the product of the mixed factors.
    """

    def __init__(self, policy: Policy, ranks: Ranks) -> None:
        super().__init__(policy, ranks)
        self._adapter: Weights = {}

    @torch.no_grad()
    def score(self, batch: Batch, **options: Any) -> Scores:
        with holding(self._policy, self._adapter) if self._adapter else self._policy.model.disable_adapter():
            return self._score(batch, **options)

    @torch.no_grad()
    def _move(self, policy: TrainEngine, share: float) -> None:
        if share != 1:
            raise RunError(f"an adapter cannot be mixed by a share of {share:g}", KEY, "take 1, or train without LoRA")
        # a value head on the same trunk trains too, and is no part of the reference
        weights = ((name, weight) for name, weight in policy.weights(trained=True) if name.startswith("model."))
        self._adapter = {name: weight.detach().clone() for name, weight in weights}

    def weights(self) -> Weights:
        return {name: weight.cpu().contiguous() for name, weight in self._adapter.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        trained = {name: p for name, p in self._policy.named_parameters() if p.requires_grad}
        _require_names(weights, [name for name in trained if name.startswith("model.")])
        self._adapter = {name: weight.to(trained[name].device, copy=True) for name, weight in weights.items()}


@contextmanager
def holding(module: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let ``module`` compute with other weights, by parameter name, for a while; its own come back as they were."""
    parameters = [module.get_parameter(name) for name in weights]
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, weight in zip(parameters, weights.values(), strict=True):
            parameter.data = weight.to(parameter)
        yield
    finally:
        for parameter, data in zip(parameters, own, strict=True):
            parameter.data = data


def save(weights: Weights, checkpoint: Path) -> None:
    """Write the weights of a reference that has moved into a checkpoint."""
    if weights:
        save_file(weights, checkpoint / FILE)


def saved(checkpoint: Path | None) -> Weights:
    """Read the weights of a checkpoint's reference; there are none if it never moved.

    Raises:
        RequestError: the file is damaged, or its weights are not finite.
    """
    if checkpoint is None or not (checkpoint / FILE).is_file():
        return {}
    with loading(checkpoint, KEY, FIX):
        weights = load_file(checkpoint / FILE)
    check_finite(weights.items(), checkpoint, KEY)
    return weights


def _require_names(weights: Mapping[str, Tensor], names: Any) -> None:
    if different := set(weights) ^ set(names):
        reason = f"the saved reference and the model disagree on {len(different)} weights, e.g. {min(different)}"
        raise RequestError(reason, FILE, "resume with the model and adapter settings that wrote the checkpoint")
