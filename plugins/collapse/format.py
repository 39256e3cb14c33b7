"""The form of the answers: a policy that has forgotten how to answer, or writes nothing, or does not stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import Verdict
from .session import MetricSession, Streaks

INVALID, THINKING, LENGTH = "train/invalid_turn_rate", "collapse/valid_thinking_rate", "train/response_length"
share = validators.and_(validators.ge(0.0), validators.le(1.0))


@attrs.frozen
class FormatCollapse:
    """Speak when answers have lost their form ``window`` times in a row, in the steps that measure it.

    Only what a run had can be lost: valid answers and thoughts count once they have held ``baseline_steps`` times in a
    row. A run whose answers are invalid from the first step on is the business of ``no_signal``.

    Watches the share of turns without a valid answer (``train/invalid_turn_rate``), the share of turns with a thought
    (``collapse/valid_thinking_rate``, where the detector ``mutual_information`` logs it) and the sampled tokens per
    episode (``train/response_length``) against their mean over the first ``baseline_steps`` steps.
    """

    max_invalid: float = attrs.field(default=0.5, validator=share)
    """Share of turns without a valid answer; 1 is never."""
    min_thinking: float = attrs.field(default=0.5, validator=share)
    """Share of turns with a thought; 0 is never."""
    min_length: float = attrs.field(default=0.2, validator=share)
    """Response length, as a part of the early one; 0 is never."""
    max_length: float = attrs.field(default=5.0, validator=validators.gt(1.0))
    """Response length, as a multiple of the early one."""
    window: int = attrs.field(default=3, validator=validators.ge(1))
    """Measurements in a row; thoughts are not measured at every step."""
    baseline_steps: int = attrs.field(default=2, validator=validators.ge(1))
    """Early steps whose mean length is the baseline; and how long form must have held before it can be lost."""
    stop: bool = True
    """``false`` records the verdict and lets the run go on."""

    def start(self, context: Any) -> _FormatSession:
        return _FormatSession(self)


class _FormatSession(MetricSession):
    def __init__(self, rule: FormatCollapse) -> None:
        self._rule = rule
        self.lengths: list[float] = []
        self.streaks: dict[str, int] = {}
        self.held: dict[str, int] = {}
        """Condition -> how many times in a row the form has held; it stays once it is ``baseline_steps``."""

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        invalid, thinking, length = (metrics.get(name) for name in (INVALID, THINKING, LENGTH))
        baseline = self._baseline(length)
        relative = length / baseline if length is not None and baseline else None
        streaks = Streaks(self.streaks)
        streaks.update(
            invalid=self._lost("invalid", None if invalid is None else invalid > rule.max_invalid),
            thinking=self._lost("thinking", None if thinking is None else thinking < rule.min_thinking),
            short=None if relative is None else relative < rule.min_length,
            long=None if relative is None else relative > rule.max_length,
        )
        which = streaks.reached(rule.window)
        if which is None or {"invalid": invalid, "thinking": thinking}.get(which, length) is None:
            return None
        reason = {
            "invalid": f"more than {rule.max_invalid:.0%} of the turns had no valid answer",
            "thinking": f"less than {rule.min_thinking:.0%} of the turns had a thought",
            "short": f"responses were shorter than {rule.min_length:g} of their early length",
            "long": f"responses were longer than {rule.max_length:g} times their early length",
        }[which]
        evidence = {INVALID: invalid, THINKING: thinking, LENGTH: length, "early_length": baseline}
        return Verdict(
            "format_collapse",
            step,
            f"{reason} {rule.window} times in a row",
            {"condition": which, **{key: value for key, value in evidence.items() if value is not None}},
            stop=rule.stop,
        )

    def _lost(self, condition: str, bad: bool | None) -> bool | None:
        """Whether the form is gone that was there before."""
        held, enough = self.held.get(condition, 0), self._rule.baseline_steps
        if bad is not None and held < enough:
            self.held = {**self.held, condition: 0 if bad else held + 1}
            return False
        return bad

    def _baseline(self, length: float | None) -> float | None:
        """The early length, once it is known."""
        if len(self.lengths) == self._rule.baseline_steps:
            return sum(self.lengths) / len(self.lengths)
        if length is not None:
            self.lengths = [*self.lengths, length]
        return None
