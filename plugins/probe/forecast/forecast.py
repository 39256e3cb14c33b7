"""The detector ``entropy_forecast`` predicts each update's entropy change; the next rollouts say whether it was so."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from attrs import validators

from ....core.components import CollapseDetector, DetectorLoad, DetectorMemory, Rollouts, Verdict
from ...collapse.session import MetricSession
from ...training.step.pending import PendingUpdate
from ...training.step.stages import to_batch
from ..estimation.passes import Outputs
from .change import Change, degrees_of_freedom, entropy_level, error, predicted_change
from .folds import passes_over
from .response import Before

TOLD = 0
"""Value of ``forecast/status`` for a change that can be told from none."""
WIDE = 1
"""Value of ``forecast/status`` for a change that cannot be told from none."""
FEW_GROUPS = 2
"""Value of ``forecast/status`` where the error rests on too few groups."""
TRUSTED_DEGREES = 4.0
"""Degrees of freedom below which an error rests on too few groups."""


@attrs.frozen
class EntropyForecast(CollapseDetector):
    """Predict the entropy change that each policy update makes from the step's own rollouts; hold it against the next.

    ``forecast/predicted`` (nats per token, with ``forecast/predicted_se``) is said once the update is made and before
    anything is sampled from the new policy: how the sampled tokens' log-probs and entropies have changed, and to first
    order what that does to all that comes after them. Groups are looked at in ``folds``, and what a fold has done to
    the update is taken out where the fold is looked at: no group says of itself what its own training has done to it.
    ``forecast/status`` is 0 where the change can be told from none by two standard errors, 1 where it cannot, 2 where
    the error rests on so few groups that it says little. In the next step, ``forecast/realised`` (with
    ``forecast/realised_se``) is the entropy of that step's rollouts less that of the rollouts before the update
    ``forecast/for_step``; ``forecast/z`` is predicted - realised in standard errors. docs/detectors.md says how to
    read them, and how much skill they have.

    Looks at step 1 and at every step that ``every`` divides.
    """

    every: int = attrs.field(default=5, validator=validators.ge(1))
    """Number of steps between forecasts. Each takes a gradient of the batch and one or two forward passes of it, and
    some copies of what trains until the update is made."""
    threshold: float | None = attrs.field(default=None, validator=validators.optional(validators.gt(0)))
    """Entropy, in nats per token, of which an update must take as much for a verdict; ``null`` only measures."""
    window: int = attrs.field(default=2, validator=validators.ge(1))
    """Number of forecasts in a row of status 0 whose predicted change lies below -threshold by two standard errors or
    more."""
    stop: bool = False
    """Whether the verdict stops the run; otherwise it is recorded only."""
    folds: int = attrs.field(default=4, validator=validators.ge(2))
    """Number of parts of the groups, each of which is looked at along the update of the others. More leave more to the
    others and take longer; each needs five copies of what trains, in float32."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why the detector cannot forecast in this experiment."""
        if experiment.model.liger:
            yield "differentiates forwards, which Liger's layers cannot; set model.liger to false"
        if experiment.trainer.zero_stage == 3:
            yield "looks at whole parameters, and ZeRO 3 leaves no rank with them; set trainer.zero_stage to 2 or less"
        if experiment.rollout.groups < 2:
            yield "sets each group against the others, and rollout.groups is 1"

    def memory(self, load: DetectorLoad) -> DetectorMemory:
        """Return the copies of what trains, in float32, with the pass for its gradient.

        Before the update these are weights and moments (3), the whole update with its own moments (3), and the same and
        a gradient of each fold; then a sum over the folds (one for each, and 2), or the gradient of one more fold while
        it is computed. Until the update is made, the correction of each fold is kept.
        """
        copy, folds = 4 * load.trained, self.folds
        return DetectorMemory(
            peak=(6 + 4 * folds) * copy + max((folds + 2) * copy, 2 * copy + load.gradient_pass),
            kept=folds * copy,
        )

    def smaller(self) -> Iterator[Mapping[str, Any]]:
        """Yield fewer folds."""
        for folds in range(self.folds - 1, 1, -1):
            yield {"folds": folds}

    def start(self, context: Any) -> _Session:
        return _Session(self)


@attrs.frozen(eq=False)
class Forecast:
    """A forecast is what an update does to the entropy by the rollouts before it; it waits for the next rollouts."""

    update: PendingUpdate
    change: Change
    level: Change
    """Entropy of these rollouts."""

    def metrics(self) -> dict[str, float]:
        change, se = self.change, self.change.se
        degrees = degrees_of_freedom(change.influence_G)
        if not degrees >= TRUSTED_DEGREES:  # NaN is few, too
            status = FEW_GROUPS
        elif abs(change.value) >= 2 * se:
            status = TOLD
        else:
            status = WIDE
        return _finite(
            {
                "forecast/predicted": change.value,
                "forecast/predicted_se": se,
                "forecast/status": float(status),
                "forecast/degrees_of_freedom": degrees,
            }
        )

    def against(self, now: Change) -> dict[str, float]:
        """Compare the forecast with the entropy ``now`` of the next rollouts.

        Both the predicted and the realised change depend on the rollouts before the update, so their errors are shared.
        """
        realised = now.value - self.level.value
        shared_G = self.change.influence_G + self.level.influence_G
        errors = math.hypot(error(shared_G), now.se)
        return {"forecast/for_step": float(self.update.step)} | _finite(
            {
                "forecast/realised": realised,
                "forecast/realised_se": math.hypot(self.level.se, now.se),
                "forecast/z": (self.change.value - realised) / errors if errors else math.nan,
            }
        )


class _Session(MetricSession):
    def __init__(self, rule: EntropyForecast) -> None:
        self._rule = rule
        self._sampled: Rollouts | None = None
        self._base: Outputs | None = None
        """Outputs of the policy for the rollouts of this step, once they were asked for."""
        self._before: Before | None = None
        self._open: Forecast | None = None
        self.low = 0
        """Number of forecasts in a row below the threshold."""

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        self._sampled = rollouts
        self._base = None
        self._before = None
        return {}

    def before_update(self, update: PendingUpdate) -> dict[str, float]:
        """Compare the last forecast, which may be older than a step, with these rollouts, and plan the next one."""
        assert self._sampled is not None
        started = time.perf_counter()
        waiting, self._open = self._open, None
        metrics = {}
        if waiting is not None:
            metrics = waiting.against(entropy_level(self._of_sampled(update), self._sampled))
        if update.step == 1 or update.step % self._rule.every == 0:
            self._before = Before.of(update, self._sampled, self._of_sampled(update), self._rule.folds)
        elif waiting is None:
            return {}
        return metrics | {"timing_s/forecast_planned": time.perf_counter() - started}

    def after_update(self, update: PendingUpdate) -> dict[str, float]:
        before, self._before = self._before, None
        if before is None:
            return {}
        started = time.perf_counter()
        self._open = forecast = predict(before)
        seconds = {"timing_s/forecast_predicted": time.perf_counter() - started}
        return seconds if forecast is None else forecast.metrics() | seconds

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule = self._rule
        predicted, se = metrics.get("forecast/predicted"), metrics.get("forecast/predicted_se")
        if rule.threshold is None or predicted is None or se is None:
            return None
        is_change = metrics.get("forecast/status", TOLD) == TOLD
        self.low = self.low + 1 if is_change and predicted + 2 * se < -rule.threshold else 0
        if self.low < rule.window:
            return None
        reason = f"{self.low} updates in a row were each predicted to take {rule.threshold:g} nats per token or more"
        evidence = {"predicted": predicted, "predicted_se": se, "threshold": rule.threshold, "forecasts": self.low}
        return Verdict("entropy_forecast", step, reason, evidence, stop=rule.stop)

    def _of_sampled(self, update: PendingUpdate) -> Outputs:
        """Return what the policy before the update gives for the rollouts of this step, by a pass if it is missing."""
        if self._base is None:
            assert self._sampled is not None
            scores, tokens = update.scores, self._sampled.tokens
            if scores is not None and scores.entropies is not None and torch.equal(tokens, update.batch.tokens):
                assert scores.logprobs is not None
                self._base = {"logprobs": scores.logprobs.double(), "entropies": scores.entropies.double()}
            else:
                size = update.experiment.trainer.score_batch
                outputs = passes_over(update, to_batch(self._sampled), size).forward()
                # a shared critic gives values, too
                self._base = {name: outputs[name] for name in ("logprobs", "entropies")}
        return self._base


def predict(before: Before) -> Forecast | None:
    """Make the forecast, once the update has been made; ``None`` where fewer than two groups can be looked at."""
    tables, seen_B = before.response()
    sampled = before.sampled
    seen_P = torch.isin(sampled.group_ids_P, sampled.groups[seen_B].unique())
    if int(seen_P.sum()) < 2:
        return None
    rows_B = sampled.rows_of(seen_P)
    rollouts = sampled.select(seen_P)
    return Forecast(
        before.update,
        predicted_change({name: table[rows_B] for name, table in tables.items()}, rollouts),
        entropy_level({name: before.base[name][rows_B] for name in before.base}, rollouts),
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that have a value; an error has none where all groups are alike, for example."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
