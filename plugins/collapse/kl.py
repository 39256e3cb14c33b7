"""The detector ``kl_runaway`` finds a policy that leaves its reference, or changes too much within one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import validators

from ...core.components import CollapseDetector, Verdict
from .session import MetricSession, Streaks

REFERENCE = "actor/kl"
UPDATE = "actor/ppo_kl"


@attrs.frozen
class KlRunaway(CollapseDetector):
    """Speak when a KL divergence stays above its limit for ``window`` steps in a row.

    ``actor/kl`` is the estimate of KL to the reference policy (nats per token, by the experiment's KL variant), logged
    where there is a KL term. ``actor/ppo_kl`` is k1 between the policy that sampled and the policy that is being
    updated, averaged over the step's mini-batches: too large a learning rate shows there first.
    """

    max_kl: float = attrs.field(default=2.0, validator=validators.gt(0))
    """Largest KL to the reference policy, in nats per token."""
    max_update: float = attrs.field(default=0.02, validator=validators.gt(0))
    """Largest KL within one step, in nats per token; healthy runs of tiny-sokoban stay below 0.015 in most steps."""
    window: int = attrs.field(default=5, validator=validators.ge(1))
    """Number of steps in a row."""
    stop: bool = True
    """Whether the verdict ends the run; with ``false`` it is recorded and the run goes on."""

    def start(self, context: Any) -> _KlSession:
        return _KlSession(self)


class _KlSession(MetricSession):
    def __init__(self, rule: KlRunaway) -> None:
        self._rule = rule
        self.streaks: dict[str, int] = {}

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        reference, update = metrics.get(REFERENCE), metrics.get(UPDATE)
        streaks = Streaks(self.streaks)
        streaks.update(
            reference=None if reference is None else abs(reference) > rule.max_kl,
            update=None if update is None else abs(update) > rule.max_update,
        )
        condition = streaks.reached(rule.window)
        metric, limit = (REFERENCE, rule.max_kl) if condition == "reference" else (UPDATE, rule.max_update)
        # a step without an update measures nothing, and so gives no second verdict
        if condition is None or metrics.get(metric) is None:
            return None
        return Verdict(
            "kl_runaway",
            step,
            f"{metric} stayed above {limit:g} nats per token for {rule.window} steps",
            {"metric": metric, "threshold": limit, "last": metrics[metric]},
            stop=rule.stop,
        )
