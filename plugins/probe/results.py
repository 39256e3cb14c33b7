"""The results of a probe are one mapping of plain data; some of its keys are those of the research code.

Numbers that were not computed are ``None``. ``deltaH1`` and ``deltaH_true`` are in ``entropy_unit``; the keys that end
in ``_tok`` are per token (a ratio of sums). The step is ``direction`` in both.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ...estimators.variance.entropy_change import mean_entropy
from ...estimators.variance.terms import MEASURED_IN
from .cautions import cautions
from .estimation.passes import norm
from .estimation.predicted_change import PER_TOKEN, change_per_eta, prediction
from .integrity import check
from .legacy_keys import older_results
from .plain import number, numbers
from .probed import Probed
from .sampling.samples import Sample
from .small_samples import FEW, widened, widening
from .standard_errors import standard_errors


def results(probed: Probed) -> dict[str, Any]:
    """Return all results but times and memory, which only the caller has.

    Every number is computed once, for ``prediction``, ``truth`` or ``variance``; what older results call it is added at
    the end, by :func:`.legacy_keys.older_results`.
    """
    config = probed.config
    record = _facts(probed)
    record["prediction"] = None
    if probed.predicts:
        record["prediction"] = prediction(probed.measurement, config.entropy_unit, config.direction)
    record |= {
        "truth": [],
        "comparison": None,
        "importance_enabled": config.measures_truth,
        "compute_conditional_variance": config.probe_rework.compute_conditional_variance,
        "compute_vx_vy_variance": config.probe_rework.compute_vx_vy_variance,
    }
    if config.measures_truth:
        record |= _truth(probed)
    if probed.predicts and config.measures_truth:
        record["comparison"] = _comparison(probed, record["prediction"], record["truth"][0])
    record["variance"] = standard_errors(probed)
    record |= older_results(record)
    record["integrity"] = check(probed) if config.probe_rework.checks != "none" else None
    # the warnings come last, since they judge all other numbers
    record["warnings"] = list(cautions(record))
    return record


# --- parts ----------------------------------------------------------------------------------------------------------


def _facts(probed: Probed) -> dict[str, Any]:
    """Return what was probed, and how: sizes, units, the step, the checkpoint, the batches."""
    config, session = probed.config, probed.session
    step = probed.measurement.step
    return {
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
    }


def _truth(probed: Probed) -> dict[str, Any]:
    """Return the measured change at every eta, the entropies before the step, and how good the weights are.

    The diagnostics of the weights are those of the first eta, which is the step's own.
    """
    importance, measurement = probed.config.importance, probed.truth
    etas = dict.fromkeys([measurement.eta, *(importance.etas or ())])
    points = [_point(probed, eta) for eta in etas]
    first, weights_S = points[0], measurement.truth(measurement.eta, probed.weighting).w

    units = {"H_orig": probed.config.entropy_unit} | ({"H_orig_tok": PER_TOKEN} if importance.report_per_token else {})
    return {
        **{key: mean_entropy(measurement.truth_terms(unit)).value for key, unit in units.items()},
        "truth": points,
        "diagnostics": {
            "ESS": first["ess"],
            "ESS_fraction": first["ess_fraction"],
            "ESS_too_low": first["ESS_too_low"],
            "w_max": first["w_max"],
            "w_min": first["w_min"],
            "w_sum_global": float(weights_S.sum()),
            "is_mode": importance.is_mode,
            "training_loss": importance.training_loss,
            "logw_mean": first["logw"]["mean"],
            "logw_std": first["logw"]["std"],
            "logw_max_global": first["logw"]["max"],
            "N_total": len(measurement.rollouts.raw_rewards_E),
        },
    }


def _point(probed: Probed, eta: float) -> dict[str, Any]:
    """Return the measured change at one eta, with the prediction for it."""
    config, measurement = probed.config, probed.truth
    terms = measurement.truth_terms(config.entropy_unit)
    measured = measurement.truth(eta, probed.weighting)
    change, raw_se = measured.change(terms)
    change_tok, raw_se_tok = measured.change(measurement.truth_terms(PER_TOKEN))
    se = widened(raw_se, measurement.prompts)
    weights = {key: numbers(value) for key, value in measured.weights_of(terms).items()}
    threshold = config.importance_sampling.ess_threshold
    point = {
        "eta": eta,
        "deltaH": change,
        "se": number(se),
        "deltaH_tok": change_tok,
        "se_tok": number(widened(raw_se_tok, measurement.prompts)),
        "se_of_slope": number(se / abs(eta)),
        "predicted": None,
        "predicted_se": None,
        "clipped_fraction": None,
        **weights,
        "ESS_too_low": weights["ess_fraction"] is None or weights["ess_fraction"] < threshold,
    }
    if probed.predicts:
        # the prediction is linear in eta, so one pass serves every eta
        slope, slope_se = change_per_eta(probed.measurement, config.entropy_unit)
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


def _comparison(probed: Probed, prediction: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    """Compare the predicted with the measured change; there is a z-score only if their samples are independent.

    On one sample the measured change stands beside its own derivative, which has the same bias of few sequences.
    """
    form = "snis_derivative" if probed.paired else "leave_one_out"
    predicted, true = prediction["forms"][form]["deltaH1"], truth["deltaH"]
    ratio = predicted / true if true else None
    relative = abs(predicted - true) / abs(true) if true else None
    same = {"difference": true - predicted, "ratio": ratio, "rel_err": relative, "paired": probed.paired}
    # only the self-normalised measured change has the prediction as its derivative on the same sample
    same["difference_is_curvature"] = probed.paired and probed.weighting.mode == "snis"
    errors = prediction["se"], truth["se"]
    se = math.hypot(*errors) if None not in errors and not probed.paired else None
    return {**same, "z": (predicted - true) / se if se else None, "se_diff": se}


# --- few prompts ----------------------------------------------------------------------------------------------------


def _small_sample(probed: Probed) -> dict[str, Any] | None:
    """Return the warning of fewer than :data:`.small_samples.FEW` prompts of E; ``None`` of more."""
    prompts = probed.measurement.prompts
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
    lengths_E = torch.cat([sample.lengths for sample in samples])
    return int(lengths_E.sum()) / len(lengths_E)
