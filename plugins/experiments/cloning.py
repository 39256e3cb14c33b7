"""The warm start of ``cloned_qwen2``: whole batches of demonstrations, in the trainer's supervised steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from ...core.components import Rollouts, TokenHead, TokenScores
from ..training.networks.models import Policy
from ..training.step.stages import to_batch
from ..training.warm_start.supervised import take_steps

WARMUP = 20
"""Steps in which the learning rate rises."""


@attrs.frozen
class Softmax(TokenHead):
    """Log-probs by torch's own log-softmax over all rows at once; entropies are not computed.

    It differs from the head ``torch`` in the last bits only. A thousand steps make other weights of them, and the
    figures in the documentation were measured with these.
    """

    gives: ClassVar[frozenset[str]] = frozenset()

    def on(self, device: torch.device) -> Softmax:
        return self

    def __call__(self, hidden_N_H: Tensor, weight_V_H: Tensor, targets_N: Tensor, **options: Any) -> TokenScores:
        """See :class:`~...core.components.TokenHead`."""
        logprobs_N_V = torch.log_softmax(hidden_N_H @ weight_V_H.T, -1)
        return TokenScores(logprobs_N_V.gather(-1, targets_N[:, None]).squeeze(-1))


def clone(model: Any, batches: Iterable[Rollouts], steps: int, lr: float) -> list[float]:
    """Train ``model`` in place, one step per batch, and return the loss of each step (nats per token).

    Raises:
        RunError: a loss is not finite.
    """
    whole = ([to_batch(batch)] for batch in batches)
    return take_steps(Policy(model, 1.0, Softmax()), whole, steps=steps, lr=lr, warmup=WARMUP, where="model.build")
