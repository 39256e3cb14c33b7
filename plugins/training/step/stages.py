"""The stages of one training step, each a function of what it is given; :mod:`.loop` puts them in order.

Every rank holds the whole batch (token ids are small) and works on its own share of the rows, so group statistics,
filters and advantages are computed on the whole batch, identically everywhere, before anything is sharded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import Advantages, CreditInputs, Rollouts, Scores
from ....core.compose.experiment import Experiment, Named
from ....estimators.advantage.reweight import filter_loss_scale, soft_advantage_reweight
from ....filters.metrics import RewardVariance
from ....filters.report import selection_metrics
from ...rollout.episode import Episode
from ...rollout.rows import build, raw_rewards
from ..processes.ranks import Ranks
from .batch import Batch, parts, shares
from .budget import SCORE_FACTOR, by_tokens
from .rewards import Shaping, normalize


def derived_seed(*parts: object) -> int:
    """A seed that depends on nothing but its parts: a resumed run draws what the uninterrupted one would have drawn."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def needs_of(named: Named) -> frozenset[str]:
    """What a component declares to need."""
    return named.needs


def to_rollouts(episodes: Sequence[Episode], experiment: Experiment, step: int = 0) -> Rollouts:
    """The rows of all episodes of training step ``step`` (from 0), with rewards as advantages see them."""
    rollout, reward = experiment.rollout, experiment.reward
    shaped_E = Shaping(reward.shaping.component, rollout.max_tokens, step, experiment.trainer.steps)(episodes)
    rewards_E = normalize(shaped_E, raw_rewards(episodes)[1], reward.normalization, reward.over)
    return build(episodes, rollout, reward, rewards_E, shaped_E)


# --- scoring --------------------------------------------------------------------------------------------------------


def to_batch(rollouts: Rollouts) -> Batch:
    lengths = rollouts.lengths
    if lengths is None:
        lengths = torch.full((len(rollouts.tokens),), rollouts.tokens.shape[1])
    rows = torch.arange(len(rollouts.tokens))
    return Batch(tokens=rollouts.tokens, mask=rollouts.mask, lengths=lengths, rows=rows)


def score(engine: Any, batch: Batch, size: int, ranks: Ranks, *, budget: int = 0, **options: Any) -> Scores:
    """Forward passes over all rows, each rank its share; every rank gets everything back, on the CPU.

    ``size`` rows go together, or packed rows of ``budget`` tokens, unless that is 0.
    """
    order = sorted(range(len(batch)), key=lambda row: int(batch.lengths[row]))
    if budget:
        passes = by_tokens(dict(enumerate(batch.lengths.tolist())), ranks.size, budget)[ranks.rank]
        options["packed"] = True
    else:
        own = order[ranks.rank :: ranks.size]
        passes = parts(own, size) if own else []
        for _ in range(-(-len(order[:: ranks.size]) // size) - len(passes)):
            passes.append([])
    scored: list[tuple[list[int], dict[str, Tensor]]] = []
    for rows in passes:
        scores = engine.score(batch.take(rows or order[:1]), **options)
        if rows:
            scored.append((rows, dict(_tensors(scores))))
    return on_all_ranks(scored, batch.mask, ranks)


def on_all_ranks(scored: Sequence[tuple[list[int], dict[str, Tensor]]], mask: Tensor, ranks: Ranks) -> Scores:
    """[B, T] like ``mask``, on the CPU: what any rank knows of any rows, each table as wide as its longest row."""
    own = [(rows, {name: value.cpu() for name, value in values.items()}) for rows, values in scored]
    full: dict[str, Tensor] = {}
    for rows, values in (item for gathered in ranks.gather(own) for item in gathered):
        for name, value in values.items():
            out = full.setdefault(name, torch.zeros(mask.shape))
            out[rows, : value.shape[1]] = value
    return Scores(**full)


def _tensors(scores: Scores) -> Iterator[tuple[str, Tensor]]:
    return (
        (name, value)
        for name in ("logprobs", "entropies", "second_moments", "collision_probs", "values")
        if (value := getattr(scores, name)) is not None
    )


def masked_mean(values: Tensor, mask: Tensor) -> float:
    return float(values[mask].mean()) if bool(mask.any()) else 0.0


# --- filter ---


def select(experiment: Experiment, rollouts: Rollouts) -> tuple[Tensor, dict[str, float]]:
    """[P] which groups train, and the metrics of the selection.

    Where the filter keeps every group whatever its score, the metric is not asked: what it needs was not computed.
    """
    chosen = experiment.filter
    idle = chosen.select.component.keeps_all
    scores_P = (RewardVariance() if idle else chosen.metric.component).score(rollouts)
    keep_P = torch.ones(len(scores_P), dtype=torch.bool) if idle else chosen.select.component.select(scores_P)
    return keep_P, selection_metrics(scores_P, keep_P, rollouts)


def select_episodes(experiment: Experiment, rollouts: Rollouts, keep_P: Tensor) -> tuple[Tensor, dict[str, float]]:
    """[E] which episodes of the kept groups train, and the metrics of that: none where all of them do."""
    chosen, keep_E = experiment.filter.episodes.component, rollouts.episodes_of(keep_P)
    if chosen.keeps_all or not bool(keep_E.any()):
        return keep_E, {}
    own_E = chosen.select(rollouts.select(keep_P))
    keep_E[keep_E.nonzero().flatten()] = own_E
    return keep_E, {"rollout/episode_kept_ratio": float(own_E.float().mean())}


# --- credit ---------------------------------------------------------------------------------------------------------


def kl_in_reward(rollouts: Rollouts, kl_B_T: Tensor, coef: float) -> Rollouts:
    """Each sampled token pays ``coef`` times its KL; raw rewards (what filters and detectors see) stay as they are."""
    penalty = torch.where(rollouts.mask, coef * kl_B_T, 0.0)
    return attrs.evolve(rollouts, rewards=rollouts.rewards - penalty)


def sequence_kl(kl_B_T: Tensor, mask_B_T: Tensor) -> float:
    """Mean over rows of the mean token KL (nats): what the adaptive controller steers."""
    counts_B = mask_B_T.sum(1)
    sums_B = torch.where(mask_B_T, kl_B_T, 0.0).sum(1)
    return masked_mean(sums_B / counts_B.clamp(min=1), counts_B > 0)


def credit_inputs(rollouts: Rollouts, **others: Any) -> CreditInputs:
    """What an advantage estimator is given of these rollouts; ``others`` are the fields that they do not hold."""
    return CreditInputs(
        rewards=rollouts.rewards,
        mask=rollouts.mask,
        groups=rollouts.groups,
        turns=rollouts.turns,
        states=rollouts.states,
        episodes=rollouts.episodes,
        success_E=rollouts.success_E,
        **others,
    )


def advantages(experiment: Experiment, rollouts: Rollouts, batch: CreditInputs, kept_ratio: float) -> Advantages:
    """Advantages and returns of the kept rows; scaling and ``zero_task_advantage`` touch the policy's advantages
    only.
    """
    result = experiment.advantage.component.compute(batch)
    scaled = result.advantages
    if experiment.soft_advantage_reweight:
        scaled = soft_advantage_reweight(scaled, rollouts.groups, rollouts.episodes, rollouts.raw_rewards_E)
    scaled = scaled * filter_loss_scale(kept_ratio, experiment.filter.loss_scaling)
    if experiment.zero_task_advantage:
        scaled = torch.zeros_like(scaled)
    return attrs.evolve(result, advantages=scaled)


# --- update ---------------------------------------------------------------------------------------------------------


def mini_batches(experiment: Experiment, rows: int, step: int) -> list[list[int]]:
    """The rows of each optimizer step: shuffled anew in every epoch, in the fewest equal parts."""
    trainer = experiment.trainer
    result = []
    for epoch in range(trainer.epochs):
        generator = torch.Generator().manual_seed(derived_seed(experiment.seed, "shuffle", step, epoch))
        result += parts(torch.randperm(rows, generator=generator).tolist(), trainer.mini_batch)
    return result


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
    """Optimizer steps on the given rows; metrics are means over the steps that have them."""
    trainer = experiment.trainer
    size, budget = trainer.micro_batch, trainer.token_budget
    if budget:
        options["packed"] = True
    collected: dict[str, list[float]] = {}
    for number, rows in enumerate(optimizer_steps):
        whole = prepared(engine, weighted(batch, rows, experiment), rows, objective, experiment, ranks, number)
        own = shares(whole, rows, ranks.size, size, budget)[ranks.rank]
        for name, value in engine.update(own, objective, lr_scale, **options).items():
            collected.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in collected.items()}


def weighted(batch: Batch, rows: Sequence[int], experiment: Experiment) -> Batch:
    """The batch with the token weights of one optimizer step on ``rows``; those of all other rows are 0."""
    weights = torch.zeros(batch.mask.shape)
    aggregation = experiment.trainer.loss_aggregation.component
    weights[rows] = aggregation.weights(batch.mask[rows], experiment.rollout.max_context)
    return attrs.evolve(batch, weights=weights)


def prepared(
    engine: Any,
    batch: Batch,
    rows: Sequence[int],
    objective: Any,
    experiment: Experiment,
    ranks: Ranks,
    number: int,
) -> Batch:
    """The batch with what the policy loss prepares before optimizer step ``number`` (from 0), on ``rows``.

    Before the first one the policy is the one that sampled, which has been scored; before a later one the rows are
    scored anew if the loss needs its ``minibatch``.
    """
    current = None
    if number and "minibatch" in needs_of(experiment.policy_loss):
        trainer = experiment.trainer
        found = score(engine, batch.take(rows), trainer.score_batch, ranks, budget=SCORE_FACTOR * trainer.token_budget)
        current = Scores(**{name: _placed(value, rows, batch.mask) for name, value in _tensors(found)})
    return objective.prepare(batch, current)


def _placed(values: Tensor, rows: Sequence[int], mask: Tensor) -> Tensor:
    """[R, T'] of some rows -> [B, T] like ``mask``, zero elsewhere."""
    table = values.new_zeros(mask.shape)
    table[list(rows), : values.shape[1]] = values
    return table


def lr_scale(schedule: str, warmup_steps: int, step: int, steps: int) -> float:
    """Share of the base learning rate in training step ``step`` (from 0) of ``steps``: linear warm-up, then decay to
    0.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "linear":
        return 1.0 - progress
    if schedule == "cosine":
        return 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * progress))))
    return 1.0
