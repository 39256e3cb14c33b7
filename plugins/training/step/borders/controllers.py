"""Rules by which a coefficient moves, and what they make of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .....core.components import EntropyController, EntropyControllerSession, KlController, KlControllerSession
from .....core.compose.blame import blaming, require_session, wrong
from .....core.compose.experiment import Named
from .checks import Checked


class CheckedController(Checked, KlController):
    def start(self, coef: float) -> CheckedControllerSession:
        with blaming(self.named, "start"):
            session = self.component.start(coef)
        require_session(self.named, "start", session, KlControllerSession)
        return CheckedControllerSession(self.named, session)


class CheckedEntropyController(Checked, EntropyController):
    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def start(self, coef: float, steps: int) -> CheckedEntropyControllerSession:
        with blaming(self.named, "start"):
            session = self.component.start(coef, steps)
        require_session(self.named, "start", session, EntropyControllerSession)
        return CheckedEntropyControllerSession(self.named, session)


class _CheckedSession:
    """A running controller, whose coefficient is a finite number."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    @property
    def coef(self) -> float:
        with blaming(self.named, "coef"):
            coef = self.session.coef
        if not isinstance(coef, Real) or not math.isfinite(coef):
            raise wrong(self.named, "coef", f"is {coef!r}, which is not a finite number")
        return float(coef)

    def state_dict(self) -> dict[str, Any]:
        with blaming(self.named, "state_dict"):
            return self.session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with blaming(self.named, "load_state_dict"):
            self.session.load_state_dict(state)


class CheckedControllerSession(_CheckedSession, KlControllerSession):  # type: ignore[override]
    """A running KL controller."""

    def update(self, kl: float, episodes: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(kl, episodes)


class CheckedEntropyControllerSession(_CheckedSession, EntropyControllerSession):  # type: ignore[override]
    """A running entropy controller."""

    def update(self, entropy: float, step: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(entropy, step)
