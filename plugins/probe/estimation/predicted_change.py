"""The predicted change, deltaH1, is the change of the entropy to first order in the learning rate.

deltaH1 = eta * D_v h is the derivative of the mean entropy h along the direction v of the step, times the learning rate
eta. One forward-mode pass over E (:attr:`.measurement.Measurement.rates`) gives the derivatives of log-probs and
entropies; :func:`.sequences.entropy_terms` sums them over each sequence; and
:func:`~....estimators.variance.entropy_change.predicted_change` makes one number of the sums:

    D_v h = (sum jH + H S1 - h T S1) / sum T,   h = sum H / sum T

with H the entropy of a sequence of T tokens, jH the derivative of H at fixed tokens and S1 the derivative of its
log-prob; per sequence T is 1. :mod:`.measured_change` has the change to all orders, deltaH_true.
"""

from __future__ import annotations

from typing import Any

import attrs

from ....estimators.variance.entropy_change import (
    Statistic,
    mean_entropy,
    predicted_change,
    predicted_change_reward_to_go,
)
from ....estimators.variance.terms import EntropyUnit
from ..plain import number
from ..small_samples import widened
from .measured_change import with_error
from .measurement import Measurement
from .passes import norm

PER_TOKEN: EntropyUnit = "per_token_ratio"


def prediction(measurement: Measurement, unit: EntropyUnit, direction: str) -> dict[str, Any]:
    """Return the mapping ``prediction`` of the results: deltaH1 (nats per ``unit``), its error, and its other forms.

    Args:
        direction: name of the rule that makes the step.
    """
    terms = measurement.prediction_terms(unit)
    # one pass gives all forms, which estimate one change and differ in noise and in their bias in small samples
    derivative = measurement.derivative_terms(unit)
    statistics = {"leave_one_out": predicted_change(terms), "snis_derivative": predicted_change(derivative)}
    if unit != "per_seq_token_mean":
        statistics["reward_to_go"] = predicted_change_reward_to_go(derivative)
    forms = {name: _form(measurement, statistic) for name, statistic in statistics.items()}
    per_token = _form(measurement, predicted_change(measurement.prediction_terms(PER_TOKEN)))
    return {
        **forms["leave_one_out"],
        "dh_dv": forms["leave_one_out"]["deltaH1"] / measurement.eta,
        **{f"{key}_tok": value for key, value in per_token.items()},
        "eta": measurement.eta,
        "H_orig": mean_entropy(terms).value,
        "entropy_unit": unit,
        "v_kind": "adamw" if direction == "adamw" else "precond_grad",
        "v_norm": norm(measurement.step.direction),
        "baseline": None,
        "estimator": "leave_one_out",
        "forms": forms,
    }


def change_per_eta(measurement: Measurement, unit: EntropyUnit) -> tuple[float, float]:
    """Return D_v h and its standard error, both in nats per unit of the learning rate."""
    at_1 = attrs.evolve(measurement.prediction_terms(unit), eta=1.0)
    return stated(measurement, predicted_change(at_1))


def stated(measurement: Measurement, statistic: Statistic) -> tuple[float, float]:
    """Return the value of a statistic of E and its standard error, widened where E has few prompts."""
    value, se = with_error(statistic)
    return value, widened(se, measurement.prompts)


def _form(measurement: Measurement, statistic: Statistic) -> dict[str, Any]:
    value, se = stated(measurement, statistic)
    return {"deltaH1": value, "se": number(se)}
