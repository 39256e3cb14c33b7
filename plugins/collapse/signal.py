"""The detector ``no_signal`` finds runs that never had anything to learn from; the others find what a run has lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession

SPREAD = "rollout/in_group_reward_std"
INVALID = "train/share_of_turns_invalid"
SAMPLES = ("collapse_first_turn_sample", "collapse_trajectory_sample", "collapse_turn_sample")
"""Namespaces of the detector ``mutual_information``, one for each way to draw."""
MIN_SPREAD = 1e-6
"""Standard deviation in reward units below which there is only rounding."""
STANDARD_ERRORS = 2.0
"""Number of standard errors by which an information must be above 0."""

REASONS = {
    "form": "no answer has been valid since the first step ({count} steps)",
    "spread": "no group's rewards have differed since the first step ({count} steps): its episodes teach nothing",
    "information": "the reasonings have never told one prompt from another, in {count} measurements",
}


@attrs.frozen
class NoSignal(CollapseDetector):
    """Speak when a run has never had anything to learn from: that is no collapse, because there was nothing to lose.

    From the first step on, and until the run has it for the first time, the detector watches

    * form: a valid answer (``train/share_of_turns_invalid`` below 1)
    * spread: a standard deviation of rewards within groups (``rollout/in_group_reward_std`` above 1e-6 reward units;
      not for groups of one episode)
    * information: a mutual information of reasonings and prompts of more than two standard errors
      (``mi_estimate``, where the detector ``mutual_information`` measures it)
    """

    window: int = attrs.field(default=20, validator=validators.ge(1))
    """Number of steps from the beginning."""
    measurements: int = attrs.field(default=4, validator=validators.ge(1))
    """Number of measurements of the information from the beginning; it is not measured at every step."""
    stop: bool = False
    """Whether the verdict ends the run; with ``false`` it is recorded, as a first success may still come by chance."""

    def start(self, context: Any) -> _NoSignalSession:
        rollout = getattr(context.experiment, "rollout", None)
        return _NoSignalSession(self, rollout is None or rollout.group_size > 1)


class _NoSignalSession(MetricSession):
    def __init__(self, rule: NoSignal, grouped: bool) -> None:
        self._rule = rule
        self._grouped = grouped
        self.without: dict[str, int] = {}
        """Number of steps without each condition; -1 once the run has had it."""

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
        """Say of each condition whether this step has it; ``None`` if it was not measured."""
        invalid = metrics.get(INVALID)
        spread = metrics.get(SPREAD) if self._grouped else None
        significant = [
            metrics[f"{name}/mi_estimate"] > STANDARD_ERRORS * metrics[f"{name}/mi_estimate_se"]
            for name in SAMPLES
            if f"{name}/mi_estimate_se" in metrics
        ]
        return {
            "form": None if invalid is None else invalid < 1.0,
            "spread": None if spread is None else spread > MIN_SPREAD,
            "information": any(significant) if significant else None,
        }
