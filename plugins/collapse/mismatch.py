"""A sampler that has come apart from the trainer: what trains is no longer what was sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

TOKENS, ROWS = "mismatch/k2", "mismatch/ess"


@attrs.frozen
class SamplerMismatch(CollapseDetector):
    """Speak when sampler and trainer disagree about the sampled tokens for ``window`` steps in a row.

    ``mismatch/k2`` is half the mean squared difference of their log-probs (nats per token), ``mismatch/ess`` the share
    of the rows that the rows' importance weights leave. Both are logged in steps in which the trainer computed the
    log-probs of the sampling policy; other steps count for nothing.

    A k2 of 0.01 is a token ratio that is typically off by 14 %. Rows of 100 tokens then have an ess of about
    exp(-2) = 0.14, so that the two defaults agree for such rows; they are orders of magnitude to begin with, not
    measured limits. With B rows the ess is at least 1/B: with 10 rows or fewer ``min_ess`` must be raised to speak.
    """

    max_k2: float = attrs.field(default=0.01, validator=validators.gt(0))
    """Nats per token."""
    min_ess: float = attrs.field(default=0.1, validator=[validators.ge(0), validators.lt(1)])
    """Of the rows; 0 never speaks."""
    window: int = attrs.field(default=5, validator=validators.ge(1))
    """Steps in a row."""
    stop: bool = False
    """``true`` stops the run; otherwise the verdict is recorded."""

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
        which = streaks.reached(rule.window)
        metric, limit, side = (TOKENS, rule.max_k2, "above") if which == "tokens" else (ROWS, rule.min_ess, "below")
        if which is None or metrics.get(metric) is None:  # a step that was not measured says nothing new
            return None
        return Verdict(
            "sampler_mismatch",
            step,
            f"{metric} stayed {side} {limit:g} for {rule.window} steps: the sampler's log-probs are not the trainer's",
            {"metric": metric, "threshold": limit, "last": metrics[metric]},
            stop=rule.stop,
        )
