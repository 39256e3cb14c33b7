"""Supervised steps: a policy learns the tokens that demonstrations would have sampled."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import attrs
import torch

from ....core.compose.experiment import Reward, Rollout
from ....core.errors import RequestError, RunError
from ...rollout import rows
from ..networks.packing import enable_packing
from ..step.batch import Batch, shares
from ..step.stages import to_batch

if TYPE_CHECKING:
    from ....core.compose.experiment import Trainer, WarmStart
    from ...rollout.episode import Episode
    from ..networks.models import Policy

WARMUP = 0.1
"""Share of the steps in which the learning rate rises."""
GRAD_CLIP = 1.0


def learn(
    policy: Policy, episodes: Sequence[Episode], settings: WarmStart, rollout: Rollout, trainer: Trainer
) -> list[float]:
    """Train ``policy`` in place, on the device that it is on, and return the loss of each step in nats per token.

    Rows go through the policy as those of a training step do: packed where ``trainer.token_budget`` is set, otherwise
    ``trainer.micro_batch`` at a time. Each demonstration occurs once before any occurs again.

    Raises:
        RunError: a loss is not finite.
    """
    packed = bool(trainer.token_budget) and _packs(policy)
    budget = trainer.token_budget if packed else 0
    steps = (
        shares(batch, range(len(batch)), 1, trainer.micro_batch, budget)[0]
        for batch in islice(_batches(episodes, settings, rollout), settings.steps)
    )
    warmup = max(1, round(WARMUP * settings.steps))
    return take_steps(policy, steps, steps=settings.steps, lr=settings.lr, warmup=warmup, packed=packed)


def take_steps(
    policy: Policy,
    batches: Iterable[Sequence[Batch]],
    *,
    steps: int,
    lr: float,
    warmup: int,
    packed: bool = False,
    where: str = "model.warm_start",
) -> list[float]:
    """Take an AdamW step on each of ``steps`` batches, in place, and return the losses in nats per token.

    A step's loss is the mean of -log p over all tokens of its demonstrations that a policy would have sampled, at the
    temperature of ``policy``. The learning rate rises to ``lr`` over ``warmup`` steps and falls linearly to a tenth.

    Args:
        batches: the micro-batches of each step, on any device.
        packed: whether the rows of a micro-batch go through the policy without padding.
        where: what the request calls these steps.

    Raises:
        RunError: a loss is not finite.
    """
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - 0.9 * step / max(1, steps))
    )
    losses: list[float] = []
    policy.train()
    for micro_batches in batches:
        count, total = sum(int(part.mask.sum()) for part in micro_batches), 0.0
        for part in micro_batches:
            loss = -policy(part.to(weights[0].device), "none", packed=packed)["logprobs"].sum() / count
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise RunError(f"the loss of step {len(losses) + 1} is {total}", where, f"lower {where}.lr")
        torch.nn.utils.clip_grad_norm_(weights, GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(total)
    policy.eval()
    return losses


def _packs(policy: Policy) -> bool:
    """Say whether the rows of this model can be packed, and prepare it."""
    try:
        enable_packing(policy.language_model)
    except RequestError:
        return False
    return True


def _batches(episodes: Sequence[Episode], settings: WarmStart, rollout: Rollout) -> Iterator[Batch]:
    """Yield the demonstrations of each step, without end."""
    rng, queue = random.Random(settings.seed), list[int]()
    while True:
        while len(queue) < settings.batch:
            queue += rng.sample(range(len(episodes)), len(episodes))
        # a demonstration that occurs twice in a step is two rows
        chosen = [attrs.evolve(episodes[index], seed=row) for row, index in enumerate(queue[: settings.batch])]
        yield to_batch(rows.build(chosen, rollout, Reward()))
        del queue[: settings.batch]
