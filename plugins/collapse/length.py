"""The detector ``length_drift`` finds responses that have become much shorter or longer than they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

LENGTH = "train/response_length"
TURNS = "train/turns"
positive = validators.ge(1)


@attrs.frozen
class LengthDrift(CollapseDetector):
    """Speak when responses stay outside a band around their early length.

    The length is the sampled tokens of an episode divided by its turns (``train/response_length / train/turns``): an
    agent that needs fewer turns does not write shorter responses. The early length is its mean over the first
    ``baseline_steps`` steps. There is a verdict when each of the last ``window`` steps lies below ``min_ratio`` times
    that, as reasoning is given up, or each above ``max_ratio`` times it.

    The band is a warning that comes before the lengths at which ``format_collapse`` stops a run. RAGEN-2
    (arXiv:2604.06268) saw reasoning shorten in all of its environments, also in runs that learned.
    """

    min_ratio: float = attrs.field(default=0.5, validator=[validators.ge(0), validators.lt(1)])
    """Smallest length, as a part of the early one; no length is below 0."""
    max_ratio: float = attrs.field(default=2.0, validator=validators.gt(1))
    """Largest length, as a multiple of the early one."""
    window: int = attrs.field(default=5, validator=positive)
    """Number of steps in a row."""
    baseline_steps: int = attrs.field(default=5, validator=positive)
    """Number of early steps whose mean is the early length."""
    stop: bool = False
    """Whether the verdict ends the run; with ``false`` it is recorded, as the task may ask for other lengths."""

    def start(self, context: Any) -> _LengthSession:
        return _LengthSession(self)


class _LengthSession(MetricSession):
    def __init__(self, rule: LengthDrift) -> None:
        self._rule = rule
        self.first: list[float] = []
        self.streaks: dict[str, int] = {}

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        tokens, turns, rule = metrics.get(LENGTH), metrics.get(TURNS) or 1.0, self._rule
        if tokens is None:
            return None
        length = tokens / turns
        if len(self.first) < rule.baseline_steps:
            self.first = [*self.first, length]
            return None
        early = sum(self.first) / len(self.first)
        streaks = Streaks(self.streaks)
        streaks.update(short=length < rule.min_ratio * early, long=early > 0 and length > rule.max_ratio * early)
        condition = streaks.reached(rule.window)
        if condition is None:
            return None
        side, ratio = ("below", rule.min_ratio) if condition == "short" else ("above", rule.max_ratio)
        return Verdict(
            "length_drift",
            step,
            f"responses stayed {side} {ratio:g} of their early length for {rule.window} steps",
            {"condition": condition, "early_length": early, "threshold": ratio * early, "length": length},
            rule.stop,
        )
