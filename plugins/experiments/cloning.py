"""A model is cloned in plain PyTorch by the cross-entropy of the demonstrator's tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ...core.components import Rollouts


def clone(model: Any, batches: Iterable[Rollouts], steps: int, lr: float, warmup: int = 20) -> list[float]:
    """Train ``model`` on its device with one AdamW step per batch, and return each loss (nats per token).

    Only tokens on the mask are learnt: those that a policy would sample, without the prompts. The learning rate rises
    over ``warmup`` steps and falls linearly to a tenth over ``steps``.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - 0.9 * step / steps)
    )
    model.train()
    losses = []
    for batch in batches:
        tokens, predicts = batch.tokens.to(model.device), batch.mask[:, 1:].to(model.device)
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        logits_N_V = model.get_output_embeddings()(hidden[:, :-1][predicts])
        loss = cross_entropy(logits_N_V, tokens[:, 1:][predicts])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
