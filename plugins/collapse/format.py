"""The form of the answers: a policy that has forgotten how to answer, or writes nothing, or does not stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

INVALID, THINKING, LENGTH = "train/share_of_turns_invalid", "collapse/valid_thinking_rate", "train/response_length"
LOST = 2 / 3
"""Part of the best share so far below which form is lost: a share that goes up and down around its limit is not."""
share = validators.and_(validators.ge(0.0), validators.le(1.0))


@attrs.frozen
class FormatCollapse(CollapseDetector):
    """Speak when answers have lost their form ``window`` times in a row, in the steps that measure it.

    Only what a run had can be lost: a share of valid answers, or of thoughts, must have been within its limit, and must
    have fallen below two thirds of its best. A run that is invalid from the first step on is left to ``no_signal``.

    Watches three metrics against their mean over the first ``baseline_steps`` steps: the share of turns without a valid
    answer (``train/share_of_turns_invalid``), the share of turns with a thought (``collapse/valid_thinking_rate``, if
    the detector ``mutual_information`` logs it) and the sampled tokens per episode (``train/response_length``).
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
    """Early steps whose mean length is the baseline."""
    stop: bool = True
    """``false`` records the verdict and lets the run go on."""

    def start(self, context: Any) -> _FormatSession:
        return _FormatSession(self)


class _FormatSession(MetricSession):
    def __init__(self, rule: FormatCollapse) -> None:
        self._rule = rule
        self.lengths: list[float] = []
        self.streaks: dict[str, int] = {}
        self.best: dict[str, float] = {}
        """Condition -> the highest share so far of turns that had the form."""

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        invalid, thinking, length = (metrics.get(name) for name in (INVALID, THINKING, LENGTH))
        baseline = self._baseline(length)
        relative = length / baseline if length is not None and baseline else None
        streaks = Streaks(self.streaks)
        streaks.update(
            invalid=self._lost("invalid", None if invalid is None else 1.0 - invalid, 1.0 - rule.max_invalid),
            thinking=self._lost("thinking", thinking, rule.min_thinking),
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

    def _lost(self, condition: str, share: float | None, limit: float) -> bool | None:
        """Whether a share of turns is below its limit, and was not always; ``None`` if it was not measured."""
        if share is None:
            return None
        best = max(share, self.best.get(condition, 0.0))
        self.best = {**self.best, condition: best}
        return share < limit <= best and share < LOST * best

    def _baseline(self, length: float | None) -> float | None:
        """The early length, once it is known."""
        if len(self.lengths) == self._rule.baseline_steps:
            return sum(self.lengths) / len(self.lengths)
        if length is not None:
            self.lengths = [*self.lengths, length]
        return None
