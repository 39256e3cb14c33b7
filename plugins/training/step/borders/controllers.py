"""Wrappers that check KL controllers, entropy controllers and their coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from .....core.components import EntropyController, EntropyControllerSession, KlController, KlControllerSession
from .....core.components.estimators import Move
from .....core.compose.blame import blaming, require_session, wrong
from .....core.compose.named import Named
from .checks import Checked


class CheckedController(Checked, KlController):
    """A KL controller that is checked."""

    @property
    def moves_reference(self) -> Move:  # type: ignore[override]
        return self.component.moves_reference

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
    """A KL controller in a run, whose coefficient and shares of the policy must be what they stand for."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    @property
    def coef(self) -> float:  # type: ignore[override]
        return _coef(self.named, self.session)

    def update(self, kl: float, episodes: int) -> None:
        with blaming(self.named, "update"):
            self.session.update(kl, episodes)

    def refresh(self, step: int) -> float | None:
        with blaming(self.named, "refresh"):
            share = self.session.refresh(step)
        if share is None:
            return None
        declared = self.named.component.moves_reference
        if isinstance(share, bool) or not isinstance(share, Real) or not 0 < float(share) <= 1:
            reason = f"gave {share!r}, which is no share above 0 and at most 1 (None leaves the reference as it is)"
            raise wrong(self.named, "refresh", reason)
        # what a run needs was made ready by what is declared
        if declared == "never" or (declared == "to_policy" and share != 1):
            raise wrong(self.named, "refresh", f"gave {share!r}, and moves_reference declares {declared!r}")
        return float(share)

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
