"""A probe hands its batches and the parts of its importance weights to the detailed log."""

from __future__ import annotations

import torch

from ..estimation.tokens import SampledTokens
from ..probed import Probed
from .batch import LoggedBatch
from .detailed_log import DetailedLogger


def log_probe(log: DetailedLogger, probed: Probed) -> None:
    """Log both batches with what was computed of their tokens, and what the importance weights were made of."""
    if not log.settings.enabled:
        return
    tokenizer, step = probed.session.loaded.tokenizer, probed.measurement.step
    weights = None
    if probed.config.measures_truth:
        truth = probed.truth
        measured, tokens = truth.truth(truth.eta, probed.weighting), SampledTokens(truth.rollouts)
        logprobs_S = tokens.total(tokens.of(truth.base["logprobs"]))
        moved_S = logprobs_S + measured.log_weights
        log.log_importance_sampling_details(logprobs_S, moved_S, truth.base_sums["H"], measured.h1)
        # the weights of a sample of their own belong to other sequences than those of E
        weights = measured.log_weights.exp() if probed.paired else None
    outputs = probed.measurement.rates if probed.predicts else probed.truth.base
    scores = {name: outputs[name] for name in ("logprobs", "entropies")}
    log.log_batch_data(
        LoggedBatch(name="E_batch", sample=probed.E, tokenizer=tokenizer, importance_weights=weights, **scores)
    )
    of_U = step.passes.forward() if log.settings.level in ("detailed", "debug") else {}
    scores = {name: of_U[name] for name in scores if name in of_U}
    advantages, sampled = step.update.batch.advantages, SampledTokens(probed.U.rollouts)
    assert advantages is not None
    mean_S = sampled.total(sampled.of(advantages)) / sampled.total(sampled.of(torch.ones_like(advantages)))
    log.log_batch_data(
        LoggedBatch(name="U_batch", sample=probed.U, tokenizer=tokenizer, advantages=mean_S.float(), **scores)
    )
