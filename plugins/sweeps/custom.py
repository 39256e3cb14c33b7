"""The sweep ``custom`` has no axes of its own."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Custom:
    """Nothing but what you say: give the axes with --axis, e.g. --axis 'kl.estimator=kl,mse' --axis seed=0..2."""

    experiment: str = "tiny-sokoban"
    """A registered experiment or a YAML file."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        return {"name": "custom", "experiment": self.experiment, "axes": {}}
