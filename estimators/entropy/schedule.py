"""``schedule`` moves the entropy coefficient by the clock: linearly, along a cosine, or in stairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs import validators

from ...core.components import EntropyController, EntropyControllerSession
from ...core.compose.experiment import Experiment
from .checks import finite


@attrs.frozen
class Schedule(EntropyController):
    """Move the coefficient from ``entropy.coef`` to ``end`` between two training steps, whatever the entropy is.

    Before ``first`` it is ``entropy.coef``, from ``last`` on it is ``end``. Between them, with p the share of the way
    ``(step - first) / (last - first)``:

    * ``linear``: ``coef + (end - coef) * p``
    * ``cosine``: ``coef + (end - coef) * (1 - cos(pi * p)) / 2``, flat at both ends
    * ``steps``: ``stairs`` drops of equal size between ``stairs + 1`` levels of equal length

    Units: per nat. Steps count from 0. No pass is made for it. The default takes the bonus away linearly over the whole
    run; cosine is the shape of SGDR (Loshchilov and Hutter 2017), without restarts.
    """

    shape: Literal["linear", "cosine", "steps"] = attrs.field(
        default="linear", validator=validators.in_(("linear", "cosine", "steps"))
    )
    """Curve between the two coefficients."""
    end: float = attrs.field(default=0.0, validator=finite)
    """Coefficient at the end, per nat."""
    first: int = attrs.field(default=0, validator=validators.ge(0))
    """Training step, from 0, until which the coefficient stays what it is."""
    last: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    """Training step, from 0, from which the coefficient is ``end``; ``null`` is the last one of the run."""
    stairs: int = attrs.field(default=4, validator=validators.ge(1))
    """Drops of the shape ``steps``; the other shapes have none."""

    def __attrs_post_init__(self) -> None:
        if self.last is not None and self.last <= self.first:
            raise ValueError(f"last must be more than first, {self.first}, got {self.last}")

    def start(self, coef: float, steps: int) -> ScheduleSession:
        return ScheduleSession(coef, coef, self, steps - 1 if self.last is None else self.last)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this controller."""
        steps, coef = experiment.trainer.steps, experiment.entropy.coef
        if coef == self.end:
            return [f"it moves from entropy.coef to end, and both are {coef}: set entropy.coef, or another end"]
        if self.first and self.first >= steps:
            return [f"first is step {self.first}, and the run of {steps} steps never comes to it (they count from 0)"]
        return []

    def share(self, step: int, last: int) -> float:
        """Return the share of the way from one coefficient to the other, in [0, 1], that is done at ``step``."""
        if step <= self.first:
            return 0.0
        if step >= last:
            return 1.0
        if self.shape == "steps":
            return ((step - self.first) * (self.stairs + 1) // (last - self.first + 1)) / self.stairs
        done = (step - self.first) / (last - self.first)
        return done if self.shape == "linear" else (1 - math.cos(math.pi * done)) / 2


@attrs.define
class ScheduleSession(EntropyControllerSession):
    """The session of ``schedule``, which knows where it came from."""

    coef: float
    begin: float
    rule: Schedule
    last: int

    def update(self, entropy: float, step: int) -> None:
        """Set the coefficient of training step ``step``, from 0; the entropy does not matter."""
        share = self.rule.share(step, self.last)
        self.coef = (1 - share) * self.begin + share * self.rule.end

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the coefficient of the last step; the next one is a matter of the clock."""
        self.coef = float(state["coef"])
