"""What a run has never had: other detectors ask whether something was lost, and are silent where nothing was there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession

SPREAD, INVALID = "rollout/in_group_reward_std", "train/share_of_turns_invalid"
SAMPLES = ("collapse_first_turn_sample", "collapse_trajectory_sample", "collapse_turn_sample")
"""Where the detector ``mutual_information`` logs, by the way in which it drew."""
MIN_SPREAD = 1e-6
"""Reward units; what is below is rounding."""
STANDARD_ERRORS = 2.0

REASONS = {
    "form": "no answer has been valid since the first step ({count} steps)",
    "spread": "no group's rewards have differed since the first step ({count} steps): its episodes teach nothing",
    "information": "the reasonings have never told one prompt from another, in {count} measurements",
}


@attrs.frozen
class NoSignal(CollapseDetector):
    """Speak when a run has never had what it could learn from: that is no collapse, there was nothing to lose.

    Watches, from the first step on and until the run has it for the first time:

    * form: a valid answer (``train/share_of_turns_invalid`` below 1)
    * spread: a standard deviation of rewards within groups (``rollout/in_group_reward_std`` above 1e-6 reward units;
      not for groups of one episode)
    * information: a mutual information of reasonings and prompts of more than two standard errors
      (``mi_estimate``, where the detector ``mutual_information`` measures it)
    """

    window: int = attrs.field(default=20, validator=validators.ge(1))
    """Steps from the beginning."""
    measurements: int = attrs.field(default=4, validator=validators.ge(1))
    """Measurements of the information from the beginning; it is not measured at every step."""
    stop: bool = False
    """``true`` ends the run; otherwise the verdict is recorded, since a first success may still come by chance."""

    def start(self, context: Any) -> _NoSignalSession:
        rollout = getattr(context.experiment, "rollout", None)
        return _NoSignalSession(self, rollout is None or rollout.group_size > 1)


class _NoSignalSession(MetricSession):
    def __init__(self, rule: NoSignal, grouped: bool) -> None:
        self._rule, self._grouped = rule, grouped
        self.without: dict[str, int] = {}
        """Condition -> how often it was looked for in vain; -1 once the run has had it."""

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        for condition, had in self._had(metrics).items():
            count = self.without.get(condition, 0)
            if had is not None and count >= 0:
                self.without = {**self.without, condition: -1 if had else count + 1}
        limits = {"form": rule.window, "spread": rule.window, "information": rule.measurements}
        missing = [condition for condition, limit in limits.items() if self.without.get(condition, 0) >= limit]
        if not missing:
            return None
        reasons = [REASONS[condition].format(count=self.without[condition]) for condition in missing]
        return Verdict("no_signal", step, "; ".join(reasons), {"conditions": missing}, stop=rule.stop)

    def _had(self, metrics: Mapping[str, float]) -> dict[str, bool | None]:
        """Condition -> whether this step has it; ``None`` where it was not measured."""
        invalid, spread = metrics.get(INVALID), metrics.get(SPREAD) if self._grouped else None
        told = [
            metrics[f"{name}/mi_estimate"] > STANDARD_ERRORS * metrics[f"{name}/mi_estimate_se"]
            for name in SAMPLES
            if f"{name}/mi_estimate_se" in metrics
        ]
        return {
            "form": None if invalid is None else invalid < 1.0,
            "spread": None if spread is None else spread > MIN_SPREAD,
            "information": any(told) if told else None,
        }
