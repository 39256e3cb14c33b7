"""Detector ``entropy_forecast``: what each update will do to the entropy, and what it then did."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from attrs import validators
from torch import Tensor

from ....core.components import Rollouts, Verdict
from ....estimators.variance.statistics import predicted_change
from ....estimators.variance.terms import EntropyUnit, Terms
from ...collapse.session import MetricSession
from ...training.pending import PendingUpdate
from ...training.stages import to_batch
from ..estimation.passes import Passes, trained
from ..estimation.sequences import entropy_terms
from ..estimation.truth import Weighting, measure, with_error
from .planned import PlannedUpdate

UNIT: EntropyUnit = "per_token_ratio"
LEAST_ESS = 0.5
"""Effective sample size over episodes below which weights say nothing of the policy before the update."""


@attrs.frozen
class EntropyForecast:
    """Predict the entropy change of the policy update from this step's rollouts, and measure it on the next ones.

    ``forecast/predicted`` (nats per token, with ``forecast/predicted_se``) is the derivative of the entropy along the
    update that the optimizer is about to make, times the learning rate. Each group is looked at along the update that
    all other groups make: no group says of itself what its own training will do to it. In the next step,
    ``forecast/realised`` (with ``forecast/realised_se``) is the change that the update ``forecast/for_step`` made, by
    importance weights between the policies before and after it on the new rollouts; ``forecast/z`` is the difference
    predicted - realised in standard errors. Where the two policies are too far apart for that
    (``forecast/ess_fraction`` below 0.5) nothing is said of the change. docs/detectors.md says how to read them.

    Looks at step 1 and at every step that ``every`` divides.
    """

    every: int = attrs.field(default=5, validator=validators.ge(1))
    """Steps between forecasts. Each takes a gradient and a forward-mode pass of the batch, and a copy of what trains in
    the CPU's memory until the next step."""
    threshold: float | None = attrs.field(default=None, validator=validators.optional(validators.gt(0)))
    """Nats per token: speak when an update will take at least so much of the entropy; ``null`` only measures."""
    window: int = attrs.field(default=2, validator=validators.ge(1))
    """Forecasts in a row whose predicted change lies below -threshold by two standard errors or more."""
    stop: bool = False
    """``true`` stops the run; else the verdict is recorded."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Why it cannot forecast in this experiment."""
        if experiment.model.liger:
            yield "differentiates forwards, which Liger's layers cannot; set model.liger to false"
        if experiment.trainer.zero_stage == 3:
            yield "looks at whole parameters, and ZeRO 3 leaves no rank with them; set trainer.zero_stage to 2 or less"
        if experiment.rollout.groups < 2:
            yield "sets each group against the others, and rollout.groups is 1"

    def start(self, context: Any) -> _Session:
        return _Session(self)


@attrs.frozen(eq=False)
class _Open:
    """A forecast that waits for the next step's rollouts."""

    update: PendingUpdate
    predicted: float
    se: float
    before: dict[str, Tensor]
    """What trains, as it was before the update, on the CPU."""


class _Session(MetricSession):
    def __init__(self, rule: EntropyForecast) -> None:
        self._rule = rule
        self._sampled: Rollouts | None = None
        self._open: _Open | None = None
        self.low = 0
        """Forecasts in a row below the threshold."""

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        self._sampled, waiting, self._open = rollouts, self._open, None
        if waiting is None:
            return {}
        started = time.perf_counter()
        found = _compared(waiting, rollouts)
        return {**found, "timing_s/forecast_realised": time.perf_counter() - started}

    def before_update(self, update: PendingUpdate) -> dict[str, float]:
        if update.step > 1 and update.step % self._rule.every:
            return {}
        assert self._sampled is not None
        started = time.perf_counter()
        found = predict(update, self._sampled)
        if found is None:
            return {}
        module = update.policy.module
        before = {name: parameter.detach().to("cpu", copy=True) for name, parameter in trained(module).items()}
        self._open = _Open(update, *found, before)
        seconds = {"timing_s/forecast_predicted": time.perf_counter() - started}
        return _finite({"forecast/predicted": found[0], "forecast/predicted_se": found[1]}) | seconds

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        rule, predicted, se = self._rule, metrics.get("forecast/predicted"), metrics.get("forecast/predicted_se")
        if rule.threshold is None or predicted is None or se is None:
            return None
        self.low = self.low + 1 if predicted + 2 * se < -rule.threshold else 0
        if self.low < rule.window:
            return None
        reason = f"{self.low} updates in a row were each predicted to take {rule.threshold:g} nats per token or more"
        evidence = {"predicted": predicted, "predicted_se": se, "threshold": rule.threshold, "forecasts": self.low}
        return Verdict("entropy_forecast", step, reason, evidence, stop=rule.stop)


def predict(update: PendingUpdate, sampled: Rollouts) -> tuple[float, float] | None:
    """(change, standard error), nats per token, of the entropy on the prompts of ``sampled`` by ``update``.

    ``sampled`` are the rollouts of the step, before the filter. A group that trains is held against the update of all
    others, a group that does not against the whole one. ``None`` where fewer than two groups can be.

    The error is that of the sampling of the groups, the update being given. It leaves out that two groups each stand in
    the update that the other is held against, so that it is too small by a factor of sqrt(2) at most: with x_p and y_p
    the parts of entropy and policy gradient that are group p's own noise, the variance has <x_p, y_q> <x_q, y_p> beside
    <x_p, y_q>^2.
    """
    planned = PlannedUpdate(update)
    training = set(update.rollouts.group_ids_P.tolist())
    idle = [group for group in sampled.group_ids_P.tolist() if group not in training]
    tables: dict[str, Tensor] = {}
    used = torch.zeros(len(sampled.group_ids_P), dtype=torch.bool)
    for groups, without in [([group], group) for group in sorted(training)] + [(idle, None)] * bool(idle):
        direction = planned.direction(without)
        if direction is None:
            continue
        members = torch.isin(sampled.group_ids_P, torch.tensor(groups))
        rows, used = sampled.rows_of(members), used | members
        for name, values in (
            planned.passes(to_batch(sampled).take(rows.nonzero()[:, 0])).forward_mode(direction).items()
        ):
            table = tables.setdefault(name, torch.zeros(sampled.mask.shape, dtype=torch.float64))
            table[rows, : values.shape[1]] = values
    if int(used.sum()) < 2:
        return None
    rows = sampled.rows_of(used)
    sums = entropy_terms({name: table[rows] for name, table in tables.items()}, sampled.select(used))
    return with_error(predicted_change(Terms(eta=update.lr, entropy_unit=UNIT, **sums)))


def _compared(waiting: _Open, rollouts: Rollouts) -> dict[str, float]:
    """The change that the update made, from rollouts after it: the entropy now, less that before by weights old/new."""
    update = waiting.update
    passes = Passes(update.policy.module, to_batch(rollouts), update.experiment.trainer.score_batch, update.ranks)
    now = passes.forward()
    back = {name: waiting.before[name].to(p) - p.detach() for name, p in trained(passes.policy).items()}
    terms = Terms(entropy_unit=UNIT, **entropy_terms(now, rollouts))
    measured = measure(passes, now, back, 1.0, rollouts, Weighting())
    change, se = measured.change(terms)
    ess = measured.weights_of(terms)["ess_fraction"]
    known = {"forecast/ess_fraction": ess, "forecast/for_step": float(update.step)}
    if ess < LEAST_ESS:
        return known
    errors = math.hypot(se, waiting.se)
    return known | _finite(
        {
            "forecast/realised": -change,
            "forecast/realised_se": se,
            "forecast/z": (waiting.predicted + change) / errors if errors else math.nan,
        }
    )


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what has no value: an error where all groups are alike, say."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
