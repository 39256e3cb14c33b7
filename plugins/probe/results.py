"""What a probe returns: one mapping of plain data, with the names of the research code and a schema of its own.

Numbers that were not computed are ``None``. ``deltaH1`` and ``deltaH_true`` are in ``entropy_unit``; the keys that end
in ``_tok`` are per token (a ratio of sums). The step is ``direction`` in both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs

from ...estimators.variance.statistics import Statistic, mean_entropy, predicted_change, predicted_change_reward_to_go
from ...estimators.variance.terms import MEASURED_IN, EntropyUnit
from .cautions import cautions
from .estimation.measurement import Measurement
from .estimation.passes import norm
from .estimation.truth import with_error
from .integrity import check
from .plain import number, numbers
from .probed import Probed
from .sampling.samples import Sample
from .small_samples import FEW, widened, widening
from .standard_errors import older_keys, standard_errors

PER_TOKEN: EntropyUnit = "per_token_ratio"
LEGACY = (
    "bars_dot", "deltaH1", "SE_conditional", "V_X", "V_Y", "SE_deltaH1", "H_orig", "H_upd", "deltaH_true",
)  # fmt: skip
"""The names of older results, which are also there together."""


def results(probed: Probed) -> dict[str, Any]:
    """All of it but times and memory, which only the caller knows."""
    config, session, step = probed.config, probed.session, probed.measurement.step
    found: dict[str, Any] = {
        "bars_dot": None,
        "deltaH1": None,
        "deltaH_true": None,
        "learning_rate": session.eta,
        "B_E": len(probed.E.rollouts.group_ids_P),
        "B_U": len(probed.U.rollouts.group_ids_P),
        "G": config.batch_config.G,
        "mb_size_prompts": config.memory_config.microbatch_size,
        "weighting_mode": config.probe_rework.weighting_mode,
        "entropy_unit": config.entropy_unit,
        "measured_in": MEASURED_IN[config.entropy_unit],
        "direction": config.direction,
        "step": session.predicted_step(),
        "master_seed": session.master_seed,
        "small_sample": _small_sample(probed),
        "update": {"v_norm": norm(step.direction), "gradient_norm": norm(step.gradient)},
        "checkpoint": {
            "path": str(session.loaded.directory),
            "adapter": session.loaded.adapter,
            "base_lr": session.adam.base_lr,
            "adam_steps": max(session.adam.step.values()),
            "notes": list(session.loaded.notes),
        },
        "avg_generation_length": _mean_length(probed.E, probed.U),
        "avg_reward": probed.U.mean_reward,
        "batches": {"E": _batch(probed.E), "U": _batch(probed.U)},
        "prediction": None,
        "truth": [],
        "comparison": None,
        "SE_conditional": None,
        "importance_enabled": config.measures_truth,
        "compute_conditional_variance": config.probe_rework.compute_conditional_variance,
        "compute_vx_vy_variance": config.probe_rework.compute_vx_vy_variance,
    }
    if probed.predicts:
        found |= _prediction(probed)
    if config.measures_truth:
        found |= _truth(probed)
    if probed.predicts and config.measures_truth:
        found["comparison"] = _comparison(probed, found)
    found["variance"] = standard_errors(probed)
    found |= older_keys(found["variance"], found["deltaH1"], _prompts(probed.measurement))
    found["integrity"] = check(probed) if config.probe_rework.checks != "none" else None
    found["legacy"] = {name: found.get(name) for name in LEGACY}
    found["warnings"] = list(cautions(found))
    return found


# --- parts ----------------------------------------------------------------------------------------------------------


def _prediction(probed: Probed) -> dict[str, Any]:
    measurement, unit = probed.measurement, probed.config.entropy_unit
    values = {u: _stated(measurement, predicted_change(measurement.prediction_terms(u))) for u in (unit, PER_TOKEN)}
    eta = measurement.eta
    statistics = {
        "leave_one_out": predicted_change(measurement.prediction_terms(unit)),
        "snis_derivative": predicted_change(measurement.derivative_terms(unit)),
    }
    if unit != "per_seq_token_mean":
        statistics["reward_to_go"] = predicted_change_reward_to_go(measurement.derivative_terms(unit))
    forms = {}
    for name, statistic in statistics.items():
        value, se = _stated(measurement, statistic)
        forms[name] = {"deltaH1": value, "se": number(se)}
    return {
        "bars_dot": values[unit][0] / eta,
        "bars_dot_tok": values[PER_TOKEN][0] / eta,
        "deltaH1": values[unit][0],
        "deltaH1_se": number(values[unit][1]),
        "deltaH1_tok": values[PER_TOKEN][0],
        "deltaH1_tok_se": number(values[PER_TOKEN][1]),
        "prediction": {
            "deltaH1": values[unit][0],
            "dh_dv": values[unit][0] / eta,
            "se": number(values[unit][1]),
            "eta": eta,
            "H_orig": mean_entropy(measurement.prediction_terms(unit)).value,
            "entropy_unit": unit,
            "v_kind": "adamw" if probed.config.direction == "adamw" else "precond_grad",
            "v_norm": norm(measurement.step.direction),
            "baseline": None,
            "estimator": "leave_one_out",
            "forms": forms,
        },
    }


def _truth(probed: Probed) -> dict[str, Any]:
    config, measurement = probed.config, probed.truth
    unit, eta = config.entropy_unit, measurement.eta
    etas = list(dict.fromkeys([eta, *(config.importance.etas or ())]))
    points = [_point(probed, at) for at in etas]
    first = points[0]
    terms, tokens = measurement.truth_terms(unit), measurement.truth_terms(PER_TOKEN)
    before, before_tok = mean_entropy(terms).value, mean_entropy(tokens).value
    per_token = {}
    if config.importance.report_per_token:
        change, se = measurement.truth(eta, probed.weighting).change(tokens)
        se = widened(se, _prompts(measurement))
        per_token = {
            "H_orig_tok": before_tok,
            "H_upd_tok": before_tok + change,
            "deltaH_true_tok": change,
            "deltaH_true_tok_se": number(se),
        }
    weights = first["weights"]
    fraction = weights["ess_fraction"]
    return {
        "H_orig": before,
        "H_upd": before + first["deltaH"],
        "deltaH_true": first["deltaH"],
        "deltaH_true_se": first["se"],
        **per_token,
        "truth": [{**{key: value for key, value in point.items() if key != "weights"}} for point in points],
        "diagnostics": {
            "ESS": weights["ess"],
            "ESS_fraction": fraction,
            "ESS_too_low": _too_low(probed, fraction),
            "w_max": weights["w_max"],
            "w_min": weights["w_min"],
            "w_sum_global": weights["w_sum"],
            "is_mode": config.importance.is_mode,
            "training_loss": config.importance.training_loss,
            "logw_mean": weights["logw"]["mean"],
            "logw_std": weights["logw"]["std"],
            "logw_max_global": weights["logw"]["max"],
            "N_total": len(measurement.rollouts.raw_rewards_E),
        },
    }


def _point(probed: Probed, eta: float) -> dict[str, Any]:
    """The truth at one eta, with the prediction for it."""
    config, measurement = probed.config, probed.truth
    terms, tokens = measurement.truth_terms(config.entropy_unit), measurement.truth_terms(PER_TOKEN)
    measured = measurement.truth(eta, probed.weighting)
    (change, se), (change_tok, se_tok) = measured.change(terms), measured.change(tokens)
    se, se_tok = (widened(error, _prompts(measurement)) for error in (se, se_tok))
    weights = {key: numbers(value) for key, value in measured.weights_of(terms).items()}
    point = {
        "eta": eta,
        "deltaH": change,
        "se": number(se),
        "deltaH_tok": change_tok,
        "se_tok": number(se_tok),
        "se_of_slope": number(se / abs(eta)),
        "predicted": None,
        "predicted_se": None,
        "clipped_fraction": None,
        **weights,
        "ESS_too_low": _too_low(probed, weights["ess_fraction"]),
        "weights": {**weights, "w_sum": float(measured.w.sum())},
    }
    if probed.predicts:
        slope, slope_se = _stated(
            probed.measurement, predicted_change(_at(probed.measurement, config.entropy_unit, 1.0))
        )
        point |= {"predicted": eta * slope, "predicted_se": number(abs(eta) * slope_se)}
    if config.importance.symmetric:
        back = measurement.truth(-eta, probed.weighting)
        minus, _ = back.change(terms)
        point["symmetric_fd"] = {
            "delta_plus": change,
            "delta_minus": minus,
            "finite_difference": (change - minus) / (2 * eta),
            "curvature": (change + minus) / eta**2,
            "ess_minus": back.weights_of(terms)["ess"],
        }
    return point


def _comparison(probed: Probed, found: dict[str, Any]) -> dict[str, Any]:
    """Prediction and truth side by side; a z-score only where they stand on independent samples.

    On one sample the truth stands beside its own derivative, which shares its bias of few sequences with it.
    """
    form = "snis_derivative" if probed.paired else "leave_one_out"
    predicted, true = found["prediction"]["forms"][form]["deltaH1"], found["deltaH_true"]
    ratio = predicted / true if true else None
    relative = abs(predicted - true) / abs(true) if true else None
    same = {"difference": true - predicted, "ratio": ratio, "rel_err": relative, "paired": probed.paired}
    # only the self-normalised truth has the prediction as its derivative on the same sample
    same["difference_is_curvature"] = probed.paired and probed.weighting.mode == "snis"
    if probed.paired:
        return {**same, "z": None, "se_diff": None}
    errors = found["deltaH1_se"], found["deltaH_true_se"]
    se = math.hypot(*errors) if None not in errors else None
    return {**same, "z": (predicted - true) / se if se else None, "se_diff": se}


def _too_low(probed: Probed, ess_fraction: float | None) -> bool:
    return ess_fraction is None or ess_fraction < probed.config.importance_sampling.ess_threshold


# --- few prompts ----------------------------------------------------------------------------------------------------


def _prompts(measurement: Measurement) -> int:
    return len(measurement.rollouts.group_ids_P)


def _stated(measurement: Measurement, statistic: Statistic) -> tuple[float, float]:
    """(value, standard error), the latter widened where it stands on few prompts."""
    value, se = with_error(statistic)
    return value, widened(se, _prompts(measurement))


def _small_sample(probed: Probed) -> dict[str, Any] | None:
    """What is said of fewer than :data:`.small_samples.FEW` prompts of E; ``None`` of more."""
    prompts = _prompts(probed.measurement)
    if prompts >= FEW:
        return None
    wider = widening(prompts)
    if prompts == 1:
        warning = "E has 1 prompt: there is no spread, and nothing has a standard error"
        if len(probed.measurement.rollouts.raw_rewards_E) == 1:
            warning += (
                ", and with no other sequence to compare it with, what its weight changes is not in the prediction"
            )
    else:
        warning = (
            f"E has {prompts} prompts: of fewer than {FEW} the spread itself is hardly known, so that standard errors "
            f"of prediction and truth are given {wider:.2f} times as large"
        )
    if probed.config.measures_truth and probed.config.importance.is_mode != "is":
        warning += ", and self-normalised weights take the truth towards 0"
    return {"prompts": prompts, "widened_by": wider, "warning": f"{warning}; take a larger B_E"}


# --- plain data -----------------------------------------------------------------------------------------------------


def _at(measurement: Measurement, unit: EntropyUnit, eta: float) -> Any:
    return attrs.evolve(measurement.prediction_terms(unit), eta=eta)


def _batch(sample: Sample) -> dict[str, Any]:
    return {
        "prompts": len(sample.rollouts.group_ids_P),
        "sequences": len(sample.episodes),
        "rows": len(sample.rollouts.tokens),
        "sampled_tokens": int(sample.rollouts.mask.sum()),
        "avg_generation_length": sample.mean_length,
        "avg_reward": sample.mean_reward,
        "success_rate": sum(episode.success for episode in sample.episodes) / len(sample.episodes),
        "sampling_s": sample.seconds,
    }


def _mean_length(*samples: Sample) -> float:
    lengths: Sequence[int] = [int(length) for sample in samples for length in sample.lengths]
    return sum(lengths) / len(lengths)
