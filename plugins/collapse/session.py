"""The base of the sessions of detectors that read nothing but logged metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.components import CollapseSession, Rollouts


class MetricSession(CollapseSession):
    """A metric session measures nothing itself; a subclass only adds ``judge``.

    Attributes that do not begin with an underscore are its state.
    """

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        vars(self).update(state)


class Streaks:
    """Streaks count how many times in a row each of several conditions has held."""

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts

    def update(self, **conditions: bool | None) -> None:
        """Count this step's conditions; one that is ``None`` was not measured and leaves its count as it is."""
        for name, holds in conditions.items():
            if holds is not None:
                self.counts[name] = self.counts.get(name, 0) + 1 if holds else 0

    def reached(self, window: int) -> str | None:
        """Return the first condition that has held ``window`` times, or ``None``."""
        return next((name for name, count in self.counts.items() if count >= window), None)
