"""The laws of controllers of the entropy coefficient."""

from __future__ import annotations

import math

from ...core.compose.named import Named
from ...plugins.training.step.borders import CheckedEntropyController
from ..problems import laws, require
from .kl import through_json

COEF, STEPS = 0.01, 50
ENTROPIES = (1.2, 0.7, 0.7, 0.2, 0.0, 3.5)
"""Entropies in nats per token, step by step."""


def _given(named: Named, entropy: float) -> float:
    """Return the entropy as a run gives it: NaN if the component does not need it."""
    return entropy if "entropies" in named.component.needs else math.nan


def _moves(named: Named) -> None:
    """A controller's session keeps a finite coefficient, whatever the entropy is."""
    for coef in (COEF, 0.0, -COEF):
        session = CheckedEntropyController(named).start(coef, STEPS)
        coefs = [session.coef]
        for step, entropy in enumerate(ENTROPIES):
            session.update(_given(named, entropy), step)
            coefs.append(session.coef)
        still = not named.component.idle or set(coefs) == {coef}
        what = f"moves the coefficient from {coef} to {coefs[-1]} although it says that it is idle, and is never asked"
        require(named, "update", still, what)


def _has_one_session_for_each_run(named: Named) -> None:
    """A controller starts a new session for each run."""
    first, second = (CheckedEntropyController(named).start(COEF, STEPS) for _ in range(2))
    require(named, "start", first.session is not second.session, "gave the same session twice: each run has its own")


def _comes_back(named: Named) -> None:
    """A controller's session that goes on from its state gives the same coefficients as an uninterrupted one."""
    first, second = (CheckedEntropyController(named).start(COEF, STEPS) for _ in range(2))
    for step, entropy in enumerate(ENTROPIES[:3]):
        first.update(_given(named, entropy), step)
    second.load_state_dict(through_json(named, first.state_dict()))
    _require_same(named, first.coef, second.coef)
    for step, entropy in enumerate(ENTROPIES[3:], 3):
        for session in (first, second):
            session.update(_given(named, entropy), step)
        _require_same(named, first.coef, second.coef)


def _require_same(named: Named, without: float, resumed: float) -> None:
    what = f"does not restore the coefficient: {resumed} after a resume, {without} without"
    require(named, "load_state_dict", abs(resumed - without) < 1e-12, what)


LAWS = {"entropy_controller": laws(_moves, _has_one_session_for_each_run, _comes_back)}
