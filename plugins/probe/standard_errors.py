"""The standard errors of a probe, by the registered estimators that its configuration asks for."""

from __future__ import annotations

from typing import Any

import attrs

from ...core.compose.experiment import Named
from .config import ProbeConfig
from .plain import numbers
from .probed import Probed


def estimators(config: ProbeConfig, paired: bool) -> list[Named]:
    """The variance estimators that a configuration asks for, and those that come with what it computes."""
    from ...core.registry import registry

    work = config.probe_rework
    names = list(config.variance)
    several = min(config.sizes) > 1
    # they speak of self-normalised weights as they are, which other modes do not use
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
    given = {named.name for named in names}
    for name, wanted in implied.items():
        if wanted and name not in given:
            names.append(Named("variance", name, component=registry().create("variance", name)))
    return names


def standard_errors(probed: Probed) -> dict[str, Any]:
    """Name -> what the estimator says, as plain data. No terms are measured but those that one of them needs."""
    unit = probed.config.entropy_unit
    chosen = estimators(probed.config, probed.paired)
    of_truth = {"w", "h1"}
    needs: dict[bool, set[str]] = {True: set(), False: set()}
    for named in chosen:
        needs[bool(named.needs & of_truth)] |= named.needs
    terms = {
        truth: (probed.truth if truth else probed.measurement).terms(unit, wanted, probed.weighting)
        for truth, wanted in needs.items()
        if wanted
    }
    estimates = {}
    for named in chosen:
        estimate = named.component.estimate(terms[bool(named.needs & of_truth)])
        record = {key: numbers(value) for key, value in attrs.asdict(estimate).items()}
        estimates[str(named)] = {**record, "n_units": estimate.n}
    return estimates
