"""What must hold in every probe, whatever the policy: checks of the code that made the numbers."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from torch import Tensor

from ...core.components import Rollouts
from ...estimators.variance.statistics import by_prompt
from ...estimators.variance.terms import EntropyUnit, Terms
from ..training.networks.models import Policy
from ..training.processes.ranks import Ranks
from ..training.step.batch import Batch, parts
from ..training.step.stages import to_batch
from .checkpoint.adam_state import AdamState
from .checkpoint.load import digest
from .estimation.measurement import Measurement
from .estimation.passes import Outputs, inner
from .estimation.truth import with_error
from .plain import numbers
from .probed import Probed

ROWS = 32


def state_digest(policy: Policy, adam: AdamState) -> str:
    """SHA-256 of the policy's tensors and of Adam's moments."""
    total = hashlib.sha256(digest(policy).encode())
    for moments in (adam.exp_avg, adam.exp_avg_sq, adam.max_exp_avg_sq or {}):
        for name, tensor in moments.items():
            total.update(f"{name} {adam.step[name]};".encode())
            total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def score_identity(terms: Terms) -> dict[str, float]:
    """The mean of S1, which is 0 in truth: the expected derivative of a log-probability, whatever the direction.

    It fails if a token that was sampled is not counted (the one that ended the sequence, say), or counted wrongly.
    """
    S1 = terms["S1"]
    value, se = with_error(by_prompt(terms, [S1, torch.ones_like(S1)], lambda sums: sums[..., 0] / sums[..., 1]))
    return {"value": value, "se": se}


@torch.no_grad()
def shift_canary(policy: Policy, rollouts: Rollouts, outputs: Outputs, ranks: Ranks) -> dict[str, float]:
    """How well the sampled tokens fit the policy, and how well at the next position, which is a deliberate mistake.

    Whatever the policy, the expected log-prob of a token that it samples is minus the entropy of the distribution that
    the token came from. ``gap`` is the mean of their sum (nats per token), which is 0 but for noise, and
    ``shifted_gap`` the same one position off; ``gap_se`` and ``shifted_gap_se`` are standard errors over rows. The mean
    log-probs themselves are ``logprob`` and ``shifted_logprob``, and ``uniform_logprob`` that of any token under a
    uniform distribution. The first rows of the sample are enough.
    """
    batch = to_batch(rollouts).take(range(min(ROWS, len(rollouts.tokens))))
    mask = batch.mask
    shifted = {name: torch.zeros(mask.shape, dtype=torch.float64) for name in ("logprobs", "entropies")}
    for rows in parts(range(len(batch)), 8):
        part = batch.take(rows).to(ranks.device)
        hidden = policy.language_model.get_decoder()(input_ids=part.tokens, use_cache=False).last_hidden_state
        for name, found in policy.token_scores(hidden[part.mask], part, "value").items():
            shifted[name][rows, : found.shape[1]] = found.double().cpu()
    own = {name: outputs[name][: len(batch), : mask.shape[1]] for name in shifted}
    gap, gap_se = _gap(own, mask, batch)
    shifted_gap, shifted_gap_se = _gap(shifted, mask, batch)
    return {
        "logprob": float(own["logprobs"][mask].mean()),
        "shifted_logprob": float(shifted["logprobs"][mask].mean()),
        "uniform_logprob": -math.log(policy.language_model.config.get_text_config().vocab_size),
        "gap": gap,
        "gap_se": gap_se,
        "shifted_gap": shifted_gap,
        "shifted_gap_se": shifted_gap_se,
    }


def _gap(scores: Outputs, mask: Tensor, batch: Batch) -> tuple[float, float]:
    """Mean over the tokens of log-prob plus entropy, and its standard error with rows as units."""
    of_rows = torch.where(mask, scores["logprobs"] + scores["entropies"], 0.0).sum(1)
    tokens = mask.sum(1).double()
    mean = float(of_rows.sum() / tokens.sum())
    if len(batch) < 2:
        return mean, math.nan
    spread = (of_rows - mean * tokens).square().sum() * len(batch) / (len(batch) - 1)
    return mean, float(spread.sqrt() / tokens.sum())


def sampler_gap(rollouts: Rollouts, logprobs: Tensor) -> float:
    """The largest difference (nats) between the log-probs of the engine that sampled and those that are used here."""
    return float((rollouts.logprobs - logprobs)[rollouts.mask].abs().max())


def noise_floor(measurement: Measurement) -> float:
    """Nats per sequence: how far two computations of one mean entropy are apart that differ in rounding alone.

    The forward-mode pass runs attention in another form than the forward passes of the truth. An entropy change near
    this number is rounding.
    """
    return abs(float((measurement.predicted_sums["H"] - measurement.base_sums["H"]).mean()))


def turned(measurement: Measurement, unit: EntropyUnit, advantages: float) -> float:
    """The prediction, if all advantages were multiplied by this number; by inner products with the entropy gradient."""
    direction = measurement.step.scaled(advantages).direction
    return measurement.eta * inner(measurement.entropy_gradient(unit), direction)


def check(probed: Probed) -> dict[str, Any]:
    """All checks that the configuration asks for; ``None`` for those that cannot be made."""
    config, session, measurement = probed.config, probed.session, probed.measurement
    outputs = measurement.rates if probed.predicts else probed.truth.base
    own = measurement if probed.predicts else probed.truth
    found: dict[str, Any] = {
        "adam_coverage": session.adam.coverage.fraction,
        "sampler_gap": sampler_gap(own.rollouts, outputs["logprobs"]),
        "shift_canary": numbers(shift_canary(session.policy, own.rollouts, outputs, session.ranks)),
        "score_identity": None,
        "score_identity_z": None,
        "noise_floor": None,
        "sign_flip": None,
        "zero_advantage": None,
    }
    if probed.predicts:
        terms = measurement.derivative_terms(config.entropy_unit)
        mean = found["score_identity"] = numbers(score_identity(terms))
        found["score_identity_z"] = mean["value"] / mean["se"] if mean["se"] else None
        if config.measures_truth and probed.paired:
            found["noise_floor"] = noise_floor(measurement)
        if config.probe_rework.checks == "full":
            unit = config.entropy_unit
            product = measurement.eta * inner(measurement.entropy_gradient(unit), measurement.step.direction)
            found["reverse_mode"] = {"deltaH1": product}
            found["sign_flip"] = {"deltaH1_negated": turned(measurement, unit, -1.0)}
            found["zero_advantage"] = {"deltaH1": turned(measurement, unit, 0.0)}
    return found
