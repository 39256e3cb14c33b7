"""The stopping rules are detectors that read nothing but logged metrics.

The numbers are those of RAGEN-2, where the rules cannot be switched off and a stopped run is reported as a success.
Here each is a component of the experiment's ``collapse`` list, and a verdict ends the run with ``stopped:<detector>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession

positive = validators.ge(1)


@attrs.frozen
class RewardVarianceCollapse(CollapseDetector):
    """Stop when rewards within groups hardly differ any more.

    The baseline is the mean of ``rollout/in_group_reward_std`` (reward units) over the first ``baseline_steps`` steps
    whose batch was not empty after the filter. From then on, when each of the last ``window`` such steps lies below
    ``ratio`` times the baseline, the run is stopped. A baseline of zero never stops a run: there was nothing to lose,
    and the detector ``no_signal`` finds that.
    """

    baseline_steps: int = attrs.field(default=10, validator=positive)
    """Number of early steps whose mean is the baseline."""
    window: int = attrs.field(default=10, validator=positive)
    """Number of steps in a row."""
    ratio: float = attrs.field(default=0.1, validator=[validators.gt(0), validators.lt(1)])
    """Limit, as a share of the baseline."""

    def start(self, context: Any) -> _RewardVarianceSession:
        return _RewardVarianceSession(self)


class _RewardVarianceSession(MetricSession):
    def __init__(self, rule: RewardVarianceCollapse) -> None:
        self._rule = rule
        self.first: list[float] = []
        self.last: list[float] = []

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        std = metrics.get("rollout/in_group_reward_std")
        if std is None or metrics.get("rollout/filter_kept_count") == 0:
            return None
        rule = self._rule
        if len(self.first) < rule.baseline_steps:
            self.first.append(std)
            return None
        self.last = [*self.last, std][-rule.window :]
        baseline = sum(self.first) / len(self.first)
        if len(self.last) < rule.window or max(self.last) >= rule.ratio * baseline:
            return None
        return Verdict(
            "reward_variance_collapse",
            step,
            f"the reward std within groups stayed below {rule.ratio:g} of its baseline for {rule.window} steps",
            {"baseline": baseline, "threshold": rule.ratio * baseline, "last": list(self.last)},
        )


@attrs.frozen
class LowValidationSuccess(CollapseDetector):
    """Stop when ``validation/success`` is below ``threshold`` in ``patience`` consecutive validations.

    The reason distinguishes a run that never succeeded from one that no longer does; the evidence has the highest
    success of all validations so far (``best``).
    """

    threshold: float = attrs.field(default=0.01, validator=[validators.gt(0), validators.le(1)])
    """Success rate, 0 to 1, below which a validation counts."""
    patience: int = attrs.field(default=5, validator=positive)
    """Number of validations in a row."""

    def start(self, context: Any) -> _LowValidationSession:
        return _LowValidationSession(self)


class _LowValidationSession(MetricSession):
    def __init__(self, rule: LowValidationSuccess) -> None:
        self._rule = rule
        self.low: list[float] = []
        self.best: float | None = None

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        success = metrics.get("validation/success")
        if success is None:
            return None
        threshold, patience = self._rule.threshold, self._rule.patience
        best = self.best = success if self.best is None else max(self.best, success)
        self.low = [*self.low, success] if success < threshold else []
        if len(self.low) < patience:
            return None
        before = "and has never been higher" if best < threshold else f"and has been {best:g}"
        return Verdict(
            "low_validation_success",
            step,
            f"validation success was below {threshold:g} in {patience} consecutive validations, {before}",
            {"threshold": threshold, "last": list(self.low), "best": best},
        )


@attrs.frozen
class EmptyFilter(CollapseDetector):
    """Stop when the filters kept no group or no episode in ``filter.empty_stop_steps`` consecutive steps (0: never)."""

    def start(self, context: Any) -> _EmptyFilterSession:
        return _EmptyFilterSession(context.experiment.filter.empty_stop_steps)


class _EmptyFilterSession(MetricSession):
    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.empty = 0

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        kept = metrics.get("rollout/filter_kept_count")
        if kept is None:
            return None
        without_episodes = metrics.get("rollout/episode_kept_ratio") == 0
        self.empty = self.empty + 1 if kept == 0 or without_episodes else 0
        if not self._steps or self.empty < self._steps:
            return None
        what = "episode filter kept no episode" if without_episodes else "rollout filter kept no group"
        return Verdict(
            "empty_filter",
            step,
            f"the {what} for {self.empty} consecutive steps",
            {"steps": self.empty, "scores_at_zero": metrics.get("rollout/filter_zero_count")},
        )
