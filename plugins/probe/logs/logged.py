"""What a probe hands to the detailed log."""

from __future__ import annotations

from typing import Any

import torch

from ..probed import Probed
from ..sampling.samples import Sample
from .batch import LoggedBatch
from .detailed_log import DetailedLogger


def log_probe(log: DetailedLogger, probed: Probed, found: dict[str, Any]) -> None:
    """Results, ground truth and both batches, with what is known of their tokens."""
    if not log.settings.enabled:
        return
    log.log_core_results(found)
    tokenizer = probed.session.loaded.tokenizer
    own = probed.measurement if probed.predicts else probed.truth
    outputs = own.rates if probed.predicts else own.base
    weights = None
    if probed.config.measures_truth:
        log.log_ground_truth_results(found)
        measured = probed.truth.truth(probed.truth.eta, probed.weighting)
        base = probed.truth.base["logprobs"]
        sums = torch.zeros(len(measured.h1), dtype=torch.float64)
        mask = probed.truth.rollouts.mask
        sums.index_add_(0, probed.truth.rollouts.episodes, torch.where(mask, base, 0.0).sum(1))
        log.log_importance_sampling_details(sums, sums + measured.log_weights, probed.truth.base_sums["H"], measured.h1)
        weights = measured.log_weights.exp() if probed.paired else None
    known = {"logprobs": outputs["logprobs"], "entropies": outputs["entropies"], "importance_weights": weights}
    log.log_batch_data(_batch("E_batch", probed.E, tokenizer, **known))
    step = probed.measurement.step
    scores = step.passes.forward() if log.settings.level in ("detailed", "debug") else {}
    advantages = step.update.batch.advantages
    assert advantages is not None
    known = {"logprobs": scores.get("logprobs"), "entropies": scores.get("entropies")}
    log.log_batch_data(_batch("U_batch", probed.U, tokenizer, advantages=_of_sequences(advantages, probed.U), **known))


def _of_sequences(advantages: torch.Tensor, sample: Sample) -> torch.Tensor:
    """[S]: the mean over the sampled tokens of each sequence."""
    rollouts = sample.rollouts
    count = len(rollouts.raw_rewards_E)
    sums = torch.zeros(count).index_add(0, rollouts.episodes, torch.where(rollouts.mask, advantages, 0.0).sum(1))
    return sums / torch.zeros(count).index_add(0, rollouts.episodes, rollouts.mask.sum(1).float())


def _batch(name: Any, sample: Sample, tokenizer: Any, **known: Any) -> LoggedBatch:
    rollouts, groups = sample.rollouts, sample.rollouts.groups_of_episodes()
    return LoggedBatch(
        name=name,
        tokens=rollouts.tokens,
        mask=rollouts.mask,
        lengths=rollouts.lengths,
        episodes=rollouts.episodes,
        groups=groups,
        prompt_ids=[sample.tasks[group] for group in groups.tolist()],
        prompt_texts=[tokenizer.decode(list(episode.turns[0].prompt)) for episode in sample.episodes],
        response_texts=[episode.response for episode in sample.episodes],
        prompt_lengths=[len(episode.turns[0].prompt) for episode in sample.episodes],
        generation_lengths=sample.lengths,
        rewards=sample.rewards,
        token_text=lambda token: tokenizer.decode([token]),
        **known,
    )
