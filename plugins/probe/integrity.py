"""Integrity checks test what must hold in every probe, whatever the policy: they check the code behind the numbers."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from ...core.components import Rollouts
from ...estimators.variance.entropy_change import by_prompt
from ...estimators.variance.terms import EntropyUnit, Terms
from ..training.networks.models import Policy
from ..training.processes.ranks import Ranks
from ..training.step.batch import Batch, parts
from ..training.step.stages import to_batch
from .checkpoint.adam_state import AdamState
from .checkpoint.load import digest
from .estimation.measured_change import with_error
from .estimation.measurement import Measurement
from .estimation.passes import Outputs, inner
from .plain import numbers
from .probed import Probed

ROWS = 32
"""Number of rows that are enough for the canary."""


def state_digest(policy: Policy, adam: AdamState) -> str:
    """Return the SHA-256 of the policy's tensors and of Adam's moments."""
    total = hashlib.sha256(digest(policy).encode())
    for moments in (adam.exp_avg, adam.exp_avg_sq, adam.max_exp_avg_sq or {}):
        for name, tensor in moments.items():
            total.update(f"{name} {adam.step[name]};".encode())
            total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def score_identity(terms: Terms) -> dict[str, float]:
    """Return the mean of S1 with its error: its expectation is 0, as that of any derivative of a log-probability.

    It fails if a token that was sampled is not counted (the one that ended the sequence, say), or counted wrongly.
    """
    S1 = terms["S1"]
    value, se = with_error(by_prompt(terms, [S1, torch.ones_like(S1)], lambda sums: sums[..., 0] / sums[..., 1]))
    return {"value": value, "se": se}


@torch.no_grad()
def shift_canary(policy: Policy, rollouts: Rollouts, outputs: Outputs, ranks: Ranks) -> dict[str, float]:
    """Compare how well the sampled tokens fit the policy, and how well at the next position, a deliberate mistake.

    Whatever the policy, the expected log-prob of a token that it samples is minus the entropy of the distribution that
    the token came from. ``gap`` is the mean of their sum (nats per token), which is 0 but for noise, and
    ``shifted_gap`` the same one position off; ``gap_se`` and ``shifted_gap_se`` are standard errors over rows. The mean
    log-probs themselves are ``logprob`` and ``shifted_logprob``, and ``uniform_logprob`` that of any token under a
    uniform distribution. The first rows of the sample are enough.
    """
    batch = to_batch(rollouts).take(range(min(ROWS, len(rollouts.tokens))))
    mask_B_T = batch.mask
    shifted = {name: torch.zeros(mask_B_T.shape, dtype=torch.float64) for name in ("logprobs", "entropies")}
    for rows in parts(range(len(batch)), 8):
        part = batch.take(rows).to(ranks.device)
        hidden = policy.language_model.get_decoder()(input_ids=part.tokens, use_cache=False).last_hidden_state
        # a token is predicted at the position before it: the mask itself picks the hidden state of the next one
        for name, scores_b_t in policy.token_scores(hidden[part.mask], part, "value").items():
            shifted[name][rows, : scores_b_t.shape[1]] = scores_b_t.double().cpu()
    right = {name: outputs[name][: len(batch), : mask_B_T.shape[1]] for name in shifted}
    gap, gap_se = _gap(right, mask_B_T, batch)
    shifted_gap, shifted_gap_se = _gap(shifted, mask_B_T, batch)
    return {
        "logprob": float(right["logprobs"][mask_B_T].mean()),
        "shifted_logprob": float(shifted["logprobs"][mask_B_T].mean()),
        "uniform_logprob": -math.log(policy.language_model.config.get_text_config().vocab_size),
        "gap": gap,
        "gap_se": gap_se,
        "shifted_gap": shifted_gap,
        "shifted_gap_se": shifted_gap_se,
    }


def _gap(scores: Outputs, mask_B_T: Tensor, batch: Batch) -> tuple[float, float]:
    """Return the mean over the tokens of log-prob plus entropy (nats), and its standard error with rows as units."""
    sums_B = torch.where(mask_B_T, scores["logprobs"] + scores["entropies"], 0.0).sum(1)
    tokens_B = mask_B_T.sum(1).double()
    mean = float(sums_B.sum() / tokens_B.sum())
    if len(batch) < 2:
        return mean, math.nan
    spread = (sums_B - mean * tokens_B).square().sum() * len(batch) / (len(batch) - 1)
    return mean, float(spread.sqrt() / tokens_B.sum())


def sampler_gap(rollouts: Rollouts, logprobs_B_T: Tensor) -> float:
    """Return the largest difference (nats) between the sampler's log-probs and those that are used here."""
    return float((rollouts.logprobs - logprobs_B_T)[rollouts.mask].abs().max())


def noise_floor(measurement: Measurement) -> float:
    """Return how far two computations of one mean entropy are apart that differ in rounding alone: nats per sequence.

    The forward-mode pass runs attention in another form than the forward passes of the measured change. An entropy
    change near this number is rounding.
    """
    return abs(float((measurement.predicted_sums["H"] - measurement.base_sums["H"]).mean()))


def turned(measurement: Measurement, unit: EntropyUnit, advantages: float) -> float:
    """Predict the change for all advantages times this number, by inner products with the entropy gradient."""
    direction = measurement.step.scaled(advantages).direction
    return measurement.eta * inner(measurement.entropy_gradient(unit), direction)


def check(probed: Probed) -> dict[str, Any]:
    """Make all checks that the configuration asks for; ``None`` stands for those that cannot be made."""
    config, session = probed.config, probed.session
    measurement = probed.measurement
    # the checks read a pass that the probe makes anyway: of the prediction, or else of the measured change
    outputs = measurement.rates if probed.predicts else probed.truth.base
    rollouts = measurement.rollouts if probed.predicts else probed.truth.rollouts
    checks: dict[str, Any] = {
        "adam_coverage": session.adam.coverage.fraction,
        "sampler_gap": sampler_gap(rollouts, outputs["logprobs"]),
        "shift_canary": numbers(shift_canary(session.policy, rollouts, outputs, session.ranks)),
        "score_identity": None,
        "score_identity_z": None,
        "noise_floor": None,
        "sign_flip": None,
        "zero_advantage": None,
    }
    if probed.predicts:
        terms = measurement.derivative_terms(config.entropy_unit)
        mean = numbers(score_identity(terms))
        checks["score_identity"] = mean
        checks["score_identity_z"] = mean["value"] / mean["se"] if mean["se"] else None
        if config.measures_truth and probed.paired:
            checks["noise_floor"] = noise_floor(measurement)
        if config.probe_rework.checks == "full":
            unit = config.entropy_unit
            product = measurement.eta * inner(measurement.entropy_gradient(unit), measurement.step.direction)
            checks["reverse_mode"] = {"deltaH1": product}
            checks["sign_flip"] = {"deltaH1_negated": turned(measurement, unit, -1.0)}
            checks["zero_advantage"] = {"deltaH1": turned(measurement, unit, 0.0)}
    return checks
