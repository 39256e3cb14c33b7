"""These detectors compare the token entropy with its early values: a policy may stop exploring, or become random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession

METRIC = "actor/entropy"
positive = validators.ge(1)


@attrs.frozen
class EntropyCollapse(CollapseDetector):
    """Speak when the token entropy stays far below where it began.

    The baseline is the mean of ``actor/entropy`` (nats per token) over the first ``baseline_steps`` steps that log it.
    There is a verdict when each of the last ``window`` steps lies below ``ratio`` times the baseline. A policy that
    learns also loses entropy (tiny-sokoban falls to 0.3 of its baseline in 30 healthy steps): the ratio says which part
    of the entropy may be lost by learning.
    """

    ratio: float = attrs.field(default=0.1, validator=[validators.gt(0), validators.lt(1)])
    """Limit, as a multiple of the baseline."""
    window: int = attrs.field(default=3, validator=positive)
    """Number of steps in a row."""
    baseline_steps: int = attrs.field(default=2, validator=positive)
    """Number of early steps whose mean is the baseline; it is small, so that a sudden collapse is not part of it."""
    stop: bool = True
    """Whether the verdict ends the run; with ``false`` it is recorded and the run goes on."""

    def start(self, context: Any) -> _BandSession:
        return _BandSession("entropy_collapse", self, below=True)


@attrs.frozen
class EntropyExplosion(CollapseDetector):
    """Speak when the token entropy stays far above where it began.

    It is :class:`EntropyCollapse` with the last ``window`` steps above ``ratio`` times the baseline. An entropy bonus
    may drive a policy towards uniform text, or an update may have damaged its weights.
    """

    ratio: float = attrs.field(default=3.0, validator=validators.gt(1))
    """Limit, as a multiple of the baseline."""
    window: int = attrs.field(default=3, validator=positive)
    """Number of steps in a row."""
    baseline_steps: int = attrs.field(default=2, validator=positive)
    """Number of early steps whose mean is the baseline; it is small, so that a sudden explosion is not part of it."""
    stop: bool = True
    """Whether the verdict ends the run; with ``false`` it is recorded and the run goes on."""

    def start(self, context: Any) -> _BandSession:
        return _BandSession("entropy_explosion", self, below=False)


class _BandSession(MetricSession):
    def __init__(self, name: str, rule: EntropyCollapse | EntropyExplosion, below: bool) -> None:
        self._name = name
        self._rule = rule
        self._below = below
        self.first: list[float] = []
        self.last: list[float] = []

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        entropy, rule = metrics.get(METRIC), self._rule
        if entropy is None:
            return None
        if len(self.first) < rule.baseline_steps:
            self.first.append(entropy)
            return None
        self.last = [*self.last, entropy][-rule.window :]
        baseline = sum(self.first) / len(self.first)
        threshold = rule.ratio * baseline
        outside = [value < threshold if self._below else value > threshold for value in self.last]
        if baseline == 0 or len(outside) < rule.window or not all(outside):
            return None
        where = "below" if self._below else "above"
        return Verdict(
            self._name,
            step,
            f"the token entropy stayed {where} {rule.ratio:g} of its early value for {rule.window} steps",
            {"metric": METRIC, "baseline": baseline, "threshold": threshold, "last": list(self.last)},
            stop=rule.stop,
        )
