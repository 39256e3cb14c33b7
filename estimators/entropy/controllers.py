"""How the coefficient of the entropy bonus moves from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from ...core.components import EntropyController, EntropyControllerSession


@attrs.define
class FixedSession(EntropyControllerSession):
    """A coefficient that stays."""

    coef: float

    def update(self, entropy: float, step: int) -> None:
        """Nothing moves."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to restore: the coefficient is the experiment's."""


@attrs.frozen
class Fixed(EntropyController):
    """The coefficient stays ``entropy.coef``, and no pass is made for it."""

    idle: ClassVar[bool] = True

    def start(self, coef: float, steps: int) -> FixedSession:
        return FixedSession(coef)
