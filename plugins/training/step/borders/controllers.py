"""Wrappers that check KL controllers, entropy controllers and their coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .....core.components import EntropyController, EntropyControllerSession, KlController, KlControllerSession
from .....core.compose.blame import blaming, require_session, wrong
from .....core.compose.named import Named
from .checks import Checked


class CheckedController(Checked, KlController):
    """A KL controller that is checked."""

    def start(self, coef: float) -> CheckedControllerSession:
        with blaming(self.named, "start"):
            session = self.component.start(coef)
        require_session(self.named, "start", session, KlControllerSession)
        return CheckedControllerSession(self.named, session)


class CheckedEntropyController(Checked, EntropyController):
    """An entropy controller that is checked."""

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def start(self, coef: float, steps: int) -> CheckedEntropyControllerSession:
        with blaming(self.named, "start"):
            session = self.component.start(coef, steps)
        require_session(self.named, "start", session, EntropyControllerSession)
        return CheckedEntropyControllerSession(self.named, session)


class CheckedControllerSession(KlControllerSession):
    """A KL controller in a run, whose coefficient must be a finite number."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    @property
    def coef(self) -> float:  # type: ignore[override]
        return _coef(self.named, self.session)

    def update(self, kl: float, episodes: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(kl, episodes)

    def state_dict(self) -> dict[str, Any]:
        return _state(self.named, self.session)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _load(self.named, self.session, state)


class CheckedEntropyControllerSession(EntropyControllerSession):
    """An entropy controller in a run, whose coefficient must be a finite number."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    @property
    def coef(self) -> float:  # type: ignore[override]
        return _coef(self.named, self.session)

    def update(self, entropy: float, step: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(entropy, step)

    def state_dict(self) -> dict[str, Any]:
        return _state(self.named, self.session)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _load(self.named, self.session, state)


def _coef(named: Named, session: Any) -> float:
    with blaming(named, "coef"):
        coef = session.coef
    if not isinstance(coef, Real) or not math.isfinite(coef):
        raise wrong(named, "coef", f"is {coef!r}, which is not a finite number")
    return float(coef)


def _state(named: Named, session: Any) -> dict[str, Any]:
    with blaming(named, "state_dict"):
        state: dict[str, Any] = session.state_dict()
    if not isinstance(state, dict):
        raise wrong(named, "state_dict", f"gave {type(state).__name__}, not a dict")
    return state


def _load(named: Named, session: Any, state: Mapping[str, Any]) -> None:
    with blaming(named, "load_state_dict"):
        session.load_state_dict(state)
