"""Controllers of the entropy coefficient: they say how it moves from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from ...core.components import EntropyController, EntropyControllerSession


@attrs.define
class FixedSession(EntropyControllerSession):
    """The session of ``fixed``, whose coefficient stays."""

    coef: float

    def update(self, entropy: float, step: int) -> None:
        """Do nothing: the coefficient stays."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing: the coefficient stands in the experiment."""


@attrs.frozen
class Fixed(EntropyController):
    """Keep the coefficient at ``entropy.coef``; no pass is made for it."""

    idle: ClassVar[bool] = True

    def start(self, coef: float, steps: int) -> FixedSession:
        return FixedSession(coef)
