"""The detector ``gradient_spike`` finds gradients that are suddenly many times as large as they were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession

METRIC = "actor/grad_norm"
positive = validators.ge(1)


@attrs.frozen
class GradientSpike(CollapseDetector):
    """Speak when the norm of the policy's gradient stays many times above its usual size.

    The usual size is the median of ``actor/grad_norm`` (before clipping, the mean over the optimizer steps of a step)
    over the last ``baseline_steps`` steps that were not above the limit themselves. There is a verdict when each of the
    last ``window`` steps lies above ``ratio`` times it, or at once if a norm is not finite. Steps without an update, or
    with a gradient of 0, do not count.

    RAGEN (arXiv:2504.20073) describes a spike of the gradient norm after the fall of the reward spread as a sign of a
    collapse that it has not seen a run recover from; it gives no number. Clipping (``trainer.grad_clip``) bounds the
    step that such a gradient takes, and not its direction.
    """

    ratio: float = attrs.field(default=5.0, validator=validators.gt(1))
    """Limit, as a multiple of the usual norm."""
    window: int = attrs.field(default=3, validator=positive)
    """Number of steps in a row."""
    baseline_steps: int = attrs.field(default=10, validator=positive)
    """Number of earlier steps whose median is the usual norm; before that many there is no verdict on a finite norm."""
    stop: bool = False
    """Whether the verdict ends the run; with ``false`` it is recorded, as a spike is a sign and no collapse."""

    def start(self, context: Any) -> _SpikeSession:
        return _SpikeSession(self)


class _SpikeSession(MetricSession):
    def __init__(self, rule: GradientSpike) -> None:
        self._rule = rule
        self.usual: list[float] = []
        """The last norms that were not above the limit."""
        self.high: list[float] = []
        """The norms above the limit, since the last that was not."""

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        norm, rule = metrics.get(METRIC), self._rule
        if norm is None or norm == 0:
            return None
        if not math.isfinite(norm):
            return Verdict(
                "gradient_spike", step, "the gradient is not finite", {"metric": METRIC, "last": [str(norm)]}, rule.stop
            )
        baseline = median(self.usual) if len(self.usual) == rule.baseline_steps else math.inf
        threshold = rule.ratio * baseline
        if norm <= threshold:
            self.usual, self.high = [*self.usual, norm][-rule.baseline_steps :], []
            return None
        self.high = [*self.high, norm][-rule.window :]
        if len(self.high) < rule.window:
            return None
        return Verdict(
            "gradient_spike",
            step,
            f"the gradient norm stayed above {rule.ratio:g} times its usual size for {rule.window} steps",
            {"metric": METRIC, "baseline": baseline, "threshold": threshold, "last": list(self.high)},
            rule.stop,
        )
