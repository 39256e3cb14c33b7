"""The stages of one training step, each a function of what it is given; :mod:`.loop` puts them in order.

Every rank holds the whole batch (token ids are small) and works on its own share of the rows, so group statistics,
filters and advantages are computed on the whole batch, identically everywhere, before anything is sharded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import AdvantageEstimatorSession, Advantages, CreditInputs, Rollouts, Scores
from ....core.compose.experiment import Experiment
from ....core.compose.named import Named
from ....core.compose.reward_names import weights_of
from ....estimators.advantage.reweight import filter_loss_scale, soft_advantage_reweight
from ....filters.metrics import RewardVariance
from ....filters.report import selection_metrics
from ...rollout.episode import Episode
from ...rollout.named_rewards import with_names
from ...rollout.rows import build, in_order, raw_rewards
from ..processes.ranks import Ranks
from .batch import Batch, parts, shares
from .budget import SCORE_FACTOR, by_tokens
from .rewards import Shaping, normalize


def derived_seed(*parts: object) -> int:
    """Return a seed that depends on ``parts`` alone, so that a resumed run draws what an uninterrupted one would."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def needs_of(named: Named) -> frozenset[str]:
    """Return the needs that a component declares."""
    return named.needs


def to_rollouts(episodes: Sequence[Episode], experiment: Experiment, step: int = 0) -> Rollouts:
    """Return the rows of all episodes of training step ``step`` (from 0), with shaped and normalised rewards."""
    rollout, reward = experiment.rollout, experiment.reward
    shaped_E = Shaping(reward.shaping.component, rollout.max_tokens, step, experiment.trainer.steps)(episodes)
    rewards_E = normalize(shaped_E, raw_rewards(episodes)[1], reward.normalization, reward.over)
    rollouts = build(episodes, rollout, reward, rewards_E, shaped_E)
    environment = experiment.environment.component
    weights = weights_of(environment, reward.weights)
    return with_names(rollouts, in_order(episodes), environment.reward_names, weights, rollout.format_penalty)


# --- scoring --------------------------------------------------------------------------------------------------------


def to_batch(rollouts: Rollouts) -> Batch:
    """Return the rows as a batch that can be scored."""
    lengths = rollouts.lengths
    if lengths is None:
        lengths = torch.full((len(rollouts.tokens),), rollouts.tokens.shape[1])
    rows = torch.arange(len(rollouts.tokens))
    return Batch(tokens=rollouts.tokens, mask=rollouts.mask, lengths=lengths, rows=rows)


def score(engine: Any, batch: Batch, size: int, ranks: Ranks, *, budget: int = 0, **options: Any) -> Scores:
    """Score all rows. Each rank scores a share of them, and is given all scores, on the CPU.

    A forward pass has ``size`` rows; or packed rows of at most ``budget`` tokens, unless that is 0.
    """
    order = sorted(range(len(batch)), key=lambda row: int(batch.lengths[row]))
    if budget:
        passes = by_tokens(dict(enumerate(batch.lengths.tolist())), ranks.size, budget)[ranks.rank]
        options["packed"] = True
    else:
        rows_of_rank = order[ranks.rank :: ranks.size]
        passes = parts(rows_of_rank, size) if rows_of_rank else []
        # the first rank has the most rows; all ranks make as many passes, since a sharded model needs all of them
        most = -(-len(order[:: ranks.size]) // size)
        passes += [[] for _ in range(most - len(passes))]
    scored: list[tuple[list[int], dict[str, Tensor]]] = []
    for rows in passes:
        scores = engine.score(batch.take(rows or order[:1]), **options)
        if rows:
            scored.append((rows, dict(_tensors(scores))))
    return on_all_ranks(scored, batch.mask, ranks)


def on_all_ranks(scored: Sequence[tuple[list[int], dict[str, Tensor]]], mask: Tensor, ranks: Ranks) -> Scores:
    """Put together what all ranks have scored: tensors [B, T] like ``mask``, on the CPU.

    Args:
        scored: pairs of rows and their tensors by name, each as wide as the longest of these rows.
        mask: [B, T], for the shape.
        ranks: the ranks, all of which call it.
    """
    scored_here = [(rows, {name: value.cpu() for name, value in values.items()}) for rows, values in scored]
    full: dict[str, Tensor] = {}
    for rows, values in chain.from_iterable(ranks.gather(scored_here)):
        for name, value in values.items():
            table = full.setdefault(name, torch.zeros(mask.shape))
            table[rows, : value.shape[1]] = value
    return Scores(**full)


def _tensors(scores: Scores) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that were computed, by name."""
    for name, value in attrs.asdict(scores, recurse=False).items():
        if value is not None:
            yield name, value


def masked_mean(values: Tensor, mask: Tensor) -> float:
    """Return the mean of the values on the mask, 0 for an empty mask."""
    return float(values[mask].mean()) if bool(mask.any()) else 0.0


# --- filter ---


def select(experiment: Experiment, rollouts: Rollouts) -> tuple[Tensor, dict[str, float]]:
    """Return which groups train, [P] bool, and the metrics of the selection.

    Where the filter keeps every group whatever its score, the metric is not asked, since what it needs was not
    computed; the metrics are then those of the reward variance.
    """
    chosen = experiment.filter
    idle = chosen.select.component.keeps_all
    scores_P = (RewardVariance() if idle else chosen.metric.component).score(rollouts)
    keep_P = torch.ones(len(scores_P), dtype=torch.bool) if idle else chosen.select.component.select(scores_P)
    return keep_P, selection_metrics(scores_P, keep_P, rollouts)


def select_episodes(experiment: Experiment, rollouts: Rollouts, keep_P: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return which episodes of the kept groups train, [E] bool, and metrics; none where every episode is kept."""
    chosen = experiment.filter.episodes.component
    keep_E = rollouts.episodes_of(keep_P)
    if chosen.keeps_all or not bool(keep_E.any()):
        return keep_E, {}
    keep_e = chosen.select(rollouts.select(keep_P))  # e: episodes of the kept groups
    keep_E[keep_E.nonzero().flatten()] = keep_e
    return keep_E, {"rollout/episode_kept_ratio": float(keep_e.float().mean())}


# --- credit ---------------------------------------------------------------------------------------------------------


def kl_in_reward(rollouts: Rollouts, kl_B_T: Tensor, coef: float) -> Rollouts:
    """Subtract ``coef`` times its KL from the reward of each sampled token. Raw rewards stay as they are."""
    penalty_B_T = torch.where(rollouts.mask, coef * kl_B_T, 0.0)
    return attrs.evolve(rollouts, rewards=rollouts.rewards - penalty_B_T)


def sequence_kl(kl_B_T: Tensor, mask_B_T: Tensor) -> float:
    """Return the mean over rows of the mean token KL (nats), by which the KL controller moves."""
    counts_B = mask_B_T.sum(1)
    sums_B = torch.where(mask_B_T, kl_B_T, 0.0).sum(1)
    return masked_mean(sums_B / counts_B.clamp(min=1), counts_B > 0)


def credit_inputs(rollouts: Rollouts, **others: Any) -> CreditInputs:
    """Return the inputs of an advantage estimator; ``others`` are the fields that rollouts do not hold."""
    return CreditInputs(
        rewards=rollouts.rewards,
        mask=rollouts.mask,
        groups=rollouts.groups,
        turns=rollouts.turns,
        states=rollouts.states,
        episodes=rollouts.episodes,
        success_E=rollouts.success_E,
        rewards_by_name=rollouts.rewards_by_name,
        reward_weights=rollouts.reward_weights,
        **others,
    )


def advantages(
    experiment: Experiment,
    session: AdvantageEstimatorSession,
    rollouts: Rollouts,
    batch: CreditInputs,
    kept_ratio: float,
) -> Advantages:
    """Return advantages and returns of the kept rows, as the session of the estimator computes them.

    Every rank has a session and is given the whole batch, so that all sessions learn the same.
    Scaling and ``zero_task_advantage`` change the policy's advantages only, never the critic's returns.
    """
    result = session.compute(batch)
    scaled_B_T = result.advantages
    if experiment.soft_advantage_reweight:
        scaled_B_T = soft_advantage_reweight(scaled_B_T, rollouts.groups, rollouts.episodes, rollouts.raw_rewards_E)
    scaled_B_T = scaled_B_T * filter_loss_scale(kept_ratio, experiment.filter.loss_scaling)
    if experiment.zero_task_advantage:
        scaled_B_T = torch.zeros_like(scaled_B_T)
    return attrs.evolve(result, advantages=scaled_B_T)


# --- update ---------------------------------------------------------------------------------------------------------


def mini_batches(experiment: Experiment, rows: int, step: int) -> list[list[int]]:
    """Return the rows of each optimizer step: shuffled anew in every epoch, in the fewest equal parts."""
    trainer = experiment.trainer
    plan = []
    for epoch in range(trainer.epochs):
        generator = torch.Generator().manual_seed(derived_seed(experiment.seed, "shuffle", step, epoch))
        plan += parts(torch.randperm(rows, generator=generator).tolist(), trainer.mini_batch)
    return plan


def update(
    engine: Any,
    batch: Batch,
    optimizer_steps: Sequence[Sequence[int]],
    objective: Any,
    experiment: Experiment,
    ranks: Ranks,
    lr_scale: float,
    **options: Any,
) -> dict[str, float]:
    """Take the optimizer steps on the given rows, and return the mean of each metric over the steps that have it."""
    trainer = experiment.trainer
    size, budget = trainer.micro_batch, trainer.token_budget
    if budget:
        options["packed"] = True
    collected: dict[str, list[float]] = {}
    for number, rows in enumerate(optimizer_steps):
        whole = prepared(engine, weighted(batch, rows, experiment), rows, objective, experiment, ranks, number)
        micro_batches = shares(whole, rows, ranks.size, size, budget)[ranks.rank]
        for name, value in engine.update(micro_batches, objective, lr_scale, **options).items():
            collected.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in collected.items()}


def weighted(batch: Batch, rows: Sequence[int], experiment: Experiment) -> Batch:
    """Return the batch with the token weights of one optimizer step on ``rows``; those of all other rows are 0."""
    weights_B_T = torch.zeros(batch.mask.shape)
    aggregation = experiment.trainer.loss_aggregation.component
    weights_B_T[rows] = aggregation.weights(batch.mask[rows], experiment.rollout.max_context)
    return attrs.evolve(batch, weights=weights_B_T)


def prepared(
    engine: Any,
    batch: Batch,
    rows: Sequence[int],
    objective: Any,
    experiment: Experiment,
    ranks: Ranks,
    number: int,
) -> Batch:
    """Return the batch with what the policy loss prepares before optimizer step ``number`` (from 0), on ``rows``.

    Before the first optimizer step the policy is the one that sampled, which has been scored. Before a later one the
    rows are scored anew if the loss needs ``minibatch``.
    """
    current = None
    if number and "minibatch" in needs_of(experiment.policy_loss):
        trainer = experiment.trainer
        budget = SCORE_FACTOR * trainer.token_budget
        scores = score(engine, batch.take(rows), trainer.score_batch, ranks, budget=budget)
        current = Scores(**{name: _placed(value, rows, batch.mask) for name, value in _tensors(scores)})
    return objective.prepare(batch, current)


def _placed(values: Tensor, rows: Sequence[int], mask: Tensor) -> Tensor:
    """Spread a tensor [R, T'] of some rows over all rows: [B, T] like ``mask``, zero elsewhere."""
    table = values.new_zeros(mask.shape)
    table[list(rows), : values.shape[1]] = values
    return table


def lr_scale(schedule: str, warmup_steps: int, step: int, steps: int) -> float:
    """Return the factor of the base learning rate in training step ``step`` (from 0) of ``steps``.

    It rises linearly from 0 to 1 in ``warmup_steps``, then stays or falls to 0 as ``schedule`` says.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * progress))))
    return 1.0
