"""The copy of the policy that a rollout engine samples with: sent when it is out of date, asleep while not needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .export_weights import adapter_weights, full_weights


class EngineWeights:
    """Does nothing for an engine that samples with the trainer's own model."""

    def __init__(self, engine: Any, policy: Any, own: bool) -> None:
        """``policy``: the train engine; ``own``: whether the rollout engine has weights of its own."""
        self._engine, self._policy, self._own = engine, policy, own
        self._stale = True

    def fresh(self) -> None:
        """Before a rollout: the engine is awake and holds the policy as it stands. All ranks alike."""
        if self._own and self._stale:
            self._engine.sync(self._weights())
            self._stale = False

    def outdated(self) -> None:
        """The policy has changed."""
        self._stale = True

    def sleep(self) -> None:
        """After a rollout: the engine gives its memory to the trainer, where it can."""
        if self._own and self._engine.sleep():
            self._stale = True

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        if self._engine.adapter:
            weights = adapter_weights(self._policy, self._policy.module)
        else:
            weights = full_weights(self._policy, self._policy.module)
        if self._policy.stage == 3:  # what was gathered is gone with the next tensor, and an engine may take its time
            return ((name, tensor.clone()) for name, tensor in weights)
        return weights
