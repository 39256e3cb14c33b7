"""Supervised steps: a policy learns the tokens that demonstrations would have sampled."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch

from ....core.compose.experiment import Reward, Rollout
from ....core.errors import RequestError, RunError
from ...rollout import rows
from ..networks.packing import enable_packing
from ..step.batch import shares
from ..step.stages import to_batch

if TYPE_CHECKING:
    from ....core.compose.experiment import Trainer, WarmStart
    from ...rollout.episode import Episode
    from ..networks.models import Policy

WARMUP = 0.1
"""Share of the steps in which the learning rate rises; then it falls linearly to a tenth."""
GRAD_CLIP = 1.0


def learn(
    policy: Policy, episodes: Sequence[Episode], settings: WarmStart, rollout: Rollout, trainer: Trainer
) -> list[float]:
    """Train ``policy`` in place, on the device that it is on, and return the loss of each step in nats per token.

    A step's loss is the mean of -log p over all tokens of its demonstrations that a policy would have sampled, at
    temperature 1. Rows go through the policy as those of a training step do: packed where ``trainer.token_budget`` is
    set, otherwise ``trainer.micro_batch`` at a time. Each demonstration occurs once before any occurs again.

    Raises:
        RunError: a loss is not finite.
    """
    packed = bool(trainer.token_budget) and _packs(policy)
    weights = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(settings.steps))
    device = weights[0].device
    draw = _orders(len(episodes), settings)
    losses = []
    policy.train()
    for step in range(settings.steps):
        chosen = [attrs.evolve(episodes[index], seed=place, member=0) for place, index in enumerate(next(draw))]
        batch = to_batch(rows.build(chosen, rollout, Reward()))
        count, total = int(batch.mask.sum()), 0.0
        cut = shares(batch, range(len(batch)), 1, trainer.micro_batch, trainer.token_budget if packed else 0)[0]
        for part in cut:
            part = part.to(device)
            loss = -policy(part, "none", packed=packed)["logprobs"].sum() / count
            loss.backward()
            total += loss.item()
        if not torch.isfinite(torch.tensor(total)):
            raise RunError(f"the loss of step {step + 1} is {total}", "model.warm_start", "lower model.warm_start.lr")
        torch.nn.utils.clip_grad_norm_(weights, GRAD_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(total)
    policy.eval()
    return losses


def _rate(steps: int) -> Any:
    rising = max(1, round(WARMUP * steps))
    return lambda step: min(1.0, (step + 1) / rising) * (1 - 0.9 * step / steps)


def _packs(policy: Policy) -> bool:
    """Say whether the rows of this model can be packed, and prepare it."""
    try:
        enable_packing(policy.language_model)
    except RequestError:
        return False
    return True


def _orders(episodes: int, settings: WarmStart) -> Any:
    """Yield the demonstrations of each step, by number."""
    rng, queue = random.Random(settings.seed), list[int]()
    while True:
        while len(queue) < settings.batch:
            queue += rng.sample(range(episodes), episodes)
        yield queue[: settings.batch]
        del queue[: settings.batch]
