"""The detector ``sampler_mismatch`` finds a sampler whose probabilities are no longer those of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

TOKENS = "mismatch/k2"
ROWS = "mismatch/ess"


@attrs.frozen
class SamplerMismatch(CollapseDetector):
    """Speak when sampler and trainer disagree about the sampled tokens for ``window`` steps in a row.

    ``mismatch/k2`` is half the mean squared difference of their log-probs (nats per token), ``mismatch/ess`` the
    effective sample size by the rows' importance weights, as a share of the rows. Both are logged in steps in which the
    trainer computed the log-probs of the sampling policy; other steps do not count.

    A k2 of 0.01 is a token ratio that is typically off by 14 %. Rows of 100 tokens then have an ess of about
    exp(-2) = 0.14, so that the two defaults agree for such rows; they are first orders of magnitude, not measured
    limits. With B rows the ess is at least 1/B: with 10 rows or fewer, a larger ``min_ess`` is needed for a verdict.
    """

    max_k2: float = attrs.field(default=0.01, validator=validators.gt(0))
    """Largest k2, in nats per token."""
    min_ess: float = attrs.field(default=0.1, validator=[validators.ge(0), validators.lt(1)])
    """Smallest ess, as a share of the rows; with 0 there is never a verdict on it."""
    window: int = attrs.field(default=5, validator=validators.ge(1))
    """Number of steps in a row."""
    stop: bool = False
    """Whether the verdict ends the run; with ``false`` it is recorded and the run goes on."""

    def start(self, context: Any) -> _MismatchSession:
        return _MismatchSession(self)


class _MismatchSession(MetricSession):
    def __init__(self, rule: SamplerMismatch) -> None:
        self._rule = rule
        self.streaks: dict[str, int] = {}

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        k2, ess = metrics.get(TOKENS), metrics.get(ROWS)
        streaks = Streaks(self.streaks)
        streaks.update(
            tokens=None if k2 is None else k2 > rule.max_k2, rows=None if ess is None else ess < rule.min_ess
        )
        condition = streaks.reached(rule.window)
        metric, limit = (TOKENS, rule.max_k2) if condition == "tokens" else (ROWS, rule.min_ess)
        side = "above" if condition == "tokens" else "below"
        # a step that did not measure the condition gives no second verdict
        if condition is None or metrics.get(metric) is None:
            return None
        return Verdict(
            "sampler_mismatch",
            step,
            f"{metric} stayed {side} {limit:g} for {rule.window} steps: the sampler's log-probs are not the trainer's",
            {"metric": metric, "threshold": limit, "last": metrics[metric]},
            stop=rule.stop,
        )
