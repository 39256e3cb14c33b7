"""The standard errors of a probe come from the registered estimators that its configuration asks for."""

from __future__ import annotations

from typing import Any

import attrs

from ...core.compose.named import Named
from .config import ProbeConfig
from .estimation.measurement import Measurement
from .plain import numbers
from .probed import Probed

OF_MEASURED_CHANGE = {"w", "h1"}
"""Terms of the measured change: importance weights, and entropies after the step."""


def estimators(config: ProbeConfig, paired: bool) -> list[Named]:
    """Return the variance estimators that a configuration asks for, and those that come with what it computes."""
    from ...core.registry import registry

    work = config.probe_rework
    names = list(config.variance)
    several = min(config.sizes) > 1
    # three of them are errors of self-normalised weights as they are, which other modes do not use
    plain_weights = several and config.importance.is_mode in ("snis", "snis_rb")
    implied = {
        "conditional_E": work.compute_conditional_variance and work.compute_delta_h1,
        "conditional_U": work.compute_vx_vy_variance and work.compute_delta_h1,
        "vx_vy": work.compute_vx_vy_variance and work.compute_delta_h1,
        "vx_vy_unbiased": work.compute_vx_vy_variance and work.compute_delta_h1,
        "deriv_delta": work.compute_delta_h1 and several,
        "snis_delta": config.measures_truth and plain_weights,
        "snis_ess": config.measures_truth and plain_weights,
        "paired_difference": work.compute_delta_h1 and config.measures_truth and paired and plain_weights,
    }
    configured = {named.name for named in names}
    for name, wanted in implied.items():
        if wanted and name not in configured:
            names.append(Named("variance", name, component=registry().create("variance", name)))
    return names


def standard_errors(probed: Probed) -> dict[str, Any]:
    """Return a mapping of each estimator's spelling to its estimate as plain data.

    No terms are measured but those that one of the estimators needs.
    """
    chosen = estimators(probed.config, probed.paired)
    predicted = [named for named in chosen if not named.needs & OF_MEASURED_CHANGE]
    measured = [named for named in chosen if named.needs & OF_MEASURED_CHANGE]
    estimates = _estimates(predicted, probed.measurement, probed) | _estimates(measured, probed.truth, probed)
    return {str(named): estimates[str(named)] for named in chosen}


def _estimates(chosen: list[Named], measurement: Measurement, probed: Probed) -> dict[str, Any]:
    """Return the estimates of these estimators, all from one set of terms of one measurement."""
    if not chosen:
        return {}
    needs = frozenset[str]().union(*(named.needs for named in chosen))
    terms = measurement.terms(probed.config.entropy_unit, needs, probed.weighting)
    records = {}
    for named in chosen:
        estimate = named.component.estimate(terms)
        record = {key: numbers(value) for key, value in attrs.asdict(estimate).items()}
        records[str(named)] = {**record, "n_units": estimate.n}
    return records
