"""The detector ``format_collapse`` watches the form of the answers: a policy may forget how to answer or to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

INVALID = "train/share_of_turns_invalid"
THINKING = "collapse/valid_thinking_rate"
LENGTH = "train/response_length"
LOST = 2 / 3
"""Part of the best share so far below which form is lost, so that a share that varies around its limit is not lost."""
share = validators.and_(validators.ge(0.0), validators.le(1.0))


@attrs.frozen
class FormatCollapse(CollapseDetector):
    """Speak when answers have lost their form ``window`` times in a row, in the steps that measure it.

    Only a run that had the form can lose it: a share of valid answers, or of thoughts, must have been within its limit,
    and must have fallen below two thirds of its best. For a run that is invalid from the first step on there is
    ``no_signal``.

    The detector watches the share of turns without a valid answer (``train/share_of_turns_invalid``), the share of
    turns with a thought (``collapse/valid_thinking_rate``, where the detector ``mutual_information`` logs it) and the
    sampled tokens per episode (``train/response_length``), compared with their mean over the first ``baseline_steps``
    steps.
    """

    max_invalid: float = attrs.field(default=0.5, validator=share)
    """Limit of the share of turns without a valid answer; with 1 it is never exceeded."""
    min_thinking: float = attrs.field(default=0.5, validator=share)
    """Limit of the share of turns with a thought; no share is below 0."""
    min_length: float = attrs.field(default=0.2, validator=share)
    """Smallest response length, as a part of the early one; no length is below 0."""
    max_length: float = attrs.field(default=5.0, validator=validators.gt(1.0))
    """Largest response length, as a multiple of the early one."""
    window: int = attrs.field(default=3, validator=validators.ge(1))
    """Number of measurements in a row; thoughts are not measured at every step."""
    baseline_steps: int = attrs.field(default=2, validator=validators.ge(1))
    """Number of early steps whose mean length is the baseline."""
    stop: bool = True
    """Whether the verdict ends the run; with ``false`` it is recorded and the run goes on."""

    def start(self, context: Any) -> _FormatSession:
        return _FormatSession(self)


class _FormatSession(MetricSession):
    def __init__(self, rule: FormatCollapse) -> None:
        self._rule = rule
        self.lengths: list[float] = []
        self.streaks: dict[str, int] = {}
        self.best: dict[str, float] = {}
        """Highest share so far of turns that had the form, by condition."""

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        invalid = metrics.get(INVALID)
        thinking = metrics.get(THINKING)
        length = metrics.get(LENGTH)
        baseline = self._baseline(length)
        relative = length / baseline if length is not None and baseline else None
        streaks = Streaks(self.streaks)
        streaks.update(
            invalid=self._lost("invalid", None if invalid is None else 1.0 - invalid, 1.0 - rule.max_invalid),
            thinking=self._lost("thinking", thinking, rule.min_thinking),
            short=None if relative is None else relative < rule.min_length,
            long=None if relative is None else relative > rule.max_length,
        )
        condition = streaks.reached(rule.window)
        # a step that did not measure the condition gives no second verdict
        if condition is None or {"invalid": invalid, "thinking": thinking}.get(condition, length) is None:
            return None
        reason = {
            "invalid": f"more than {rule.max_invalid:.0%} of the turns had no valid answer",
            "thinking": f"less than {rule.min_thinking:.0%} of the turns had a thought",
            "short": f"responses were shorter than {rule.min_length:g} of their early length",
            "long": f"responses were longer than {rule.max_length:g} times their early length",
        }[condition]
        evidence = {INVALID: invalid, THINKING: thinking, LENGTH: length, "early_length": baseline}
        return Verdict(
            "format_collapse",
            step,
            f"{reason} {rule.window} times in a row",
            {"condition": condition, **{key: value for key, value in evidence.items() if value is not None}},
            stop=rule.stop,
        )

    def _lost(self, condition: str, share: float | None, limit: float) -> bool | None:
        """Say whether a share of turns has fallen below its limit; ``None`` if it was not measured."""
        if share is None:
            return None
        best = max(share, self.best.get(condition, 0.0))
        self.best = {**self.best, condition: best}
        return share < limit <= best and share < LOST * best

    def _baseline(self, length: float | None) -> float | None:
        """Return the mean early length, or ``None`` while it is still being measured."""
        if len(self.lengths) == self._rule.baseline_steps:
            return sum(self.lengths) / len(self.lengths)
        if length is not None:
            self.lengths = [*self.lengths, length]
        return None
