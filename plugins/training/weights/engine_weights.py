"""A rollout engine samples with a copy of the policy, which is sent when it is out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .export_weights import adapter_weights, full_weights


class EngineWeights:
    """The weights of a rollout engine follow those of the policy.

    An engine that samples with the trainer's own model needs nothing, and every method then does nothing.
    """

    def __init__(self, engine: Any, policy: Any, own_weights: bool) -> None:
        """Begin with weights that are out of date.

        Args:
            engine: the rollout engine.
            policy: the train engine.
            own_weights: whether the rollout engine has weights of its own.
        """
        self._engine = engine
        self._policy = policy
        self._has_own_weights = own_weights
        self._stale = True

    def fresh(self) -> None:
        """Send the policy to the engine if it has changed; every rank calls this before a rollout."""
        if self._has_own_weights and self._stale:
            self._engine.sync(self._weights())
            self._stale = False

    def outdated(self) -> None:
        """Note that the policy has changed."""
        self._stale = True

    def sleep(self) -> None:
        """Let the engine give its memory to the trainer after a rollout, if it can; its weights are then gone."""
        if self._has_own_weights and self._engine.sleep():
            self._stale = True

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        if self._engine.adapter:
            weights = adapter_weights(self._policy, self._policy.module)
        else:
            weights = full_weights(self._policy, self._policy.module)
        if self._policy.stage == 3:
            # a gathered tensor lives until the next one is gathered, and an engine may need it for longer
            return ((name, tensor.clone()) for name, tensor in weights)
        return weights
