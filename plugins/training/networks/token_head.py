"""A token head computes log-prob and entropy of chosen tokens from hidden states, without a [tokens, vocabulary]
matrix.

Tokens are taken in chunks; each chunk's logits exist only while it is computed, in fp32, and are computed again in the
backward pass. A chunk that holds everything (a small model) is kept instead, since recomputing would only cost time.

This head is the reference that every other head is compared with, and the only one with forward-mode derivatives.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....core.components import TokenScores, Wanted

CHUNK_ELEMENTS = 2**25
"""Number of fp32 logits that are held at once (2**25 are 128 MiB)."""


def _chunk(
    hidden_N_H: Tensor,
    weight_V_H: Tensor,
    targets_N: Tensor,
    temperature: float | Tensor,
    softcap: float | None,
    entropy: Wanted,
    second_moment: Wanted,
    collision_prob: Wanted,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Compute log-probs and whatever else is wanted of one chunk, in the order of :class:`TokenScores`: [N] each."""
    logits_N_V = (hidden_N_H @ weight_V_H.T).float()
    if softcap:
        logits_N_V = softcap * torch.tanh(logits_N_V / softcap)
    logits_N_V = logits_N_V / (temperature[:, None] if isinstance(temperature, Tensor) else temperature)
    # Relative to the largest one, a peaked distribution keeps the digits of its small entropy.
    logits_N_V = logits_N_V - logits_N_V.detach().amax(-1, keepdim=True)
    normaliser_N = logits_N_V.logsumexp(-1)
    logprobs_N = logits_N_V.gather(-1, targets_N[:, None]).squeeze(-1) - normaliser_N

    entropies_N = second_moments_N = collision_probs_N = None
    if entropy != "none":
        with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
            probs_N_V = torch.exp(logits_N_V - normaliser_N[:, None])
            entropies_N = normaliser_N - (probs_N_V * logits_N_V).sum(-1)
    if second_moment != "none":
        with torch.set_grad_enabled(second_moment == "gradient" and torch.is_grad_enabled()):
            surprise_N_V = normaliser_N[:, None] - logits_N_V
            second_moments_N = (torch.exp(-surprise_N_V) * surprise_N_V**2).sum(-1)
    if collision_prob != "none":
        with torch.set_grad_enabled(collision_prob == "gradient" and torch.is_grad_enabled()):
            collision_probs_N = torch.exp(2 * (logits_N_V - normaliser_N[:, None])).sum(-1)
    return logprobs_N, entropies_N, second_moments_N, collision_probs_N


def token_scores(
    hidden_N_H: Tensor,
    weight_V_H: Tensor,
    targets_N: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    entropy: Wanted = "value",
    second_moment: Wanted = "none",
    collision_prob: Wanted = "none",
    chunk_elements: int = CHUNK_ELEMENTS,
) -> TokenScores:
    """Compute what :class:`~...core.components.TokenHead` promises, in plain torch.

    Args:
        chunk_elements: how many logits may exist at once; at least one row is always taken.
    """
    if isinstance(temperature, Tensor):
        temperature = temperature.detach().to(hidden_N_H.device, torch.float32)
    compute = partial(
        _chunk, softcap=softcap, entropy=entropy, second_moment=second_moment, collision_prob=collision_prob
    )
    rows = max(1, chunk_elements // weight_V_H.shape[0])
    if len(targets_N) <= rows:
        return TokenScores(*compute(hidden_N_H, weight_V_H, targets_N, temperature))
    # without a backward pass there is nothing to save, and a forward-mode derivative cannot pass a checkpoint
    saves = torch.is_grad_enabled() and (hidden_N_H.requires_grad or weight_V_H.requires_grad)
    run = partial(checkpoint, compute, use_reentrant=False) if saves else compute
    temperatures = temperature.split(rows) if isinstance(temperature, Tensor) else repeat(temperature)
    chunks = [
        run(hidden, weight_V_H, targets, temperature)
        for hidden, targets, temperature in zip(
            hidden_N_H.split(rows), targets_N.split(rows), temperatures, strict=False
        )
    ]
    logprobs, *others = zip(*chunks, strict=True)
    return TokenScores(torch.cat(logprobs), *map(_joined, others))


def _joined(chunks: tuple[Tensor | None, ...]) -> Tensor | None:
    present = [chunk for chunk in chunks if chunk is not None]
    return torch.cat(present) if present else None


def token_logprobs(
    hidden_N_H: Tensor,
    weight_V_H: Tensor,
    targets_N: Tensor,
    temperature: float | Tensor = 1.0,
    softcap: float | None = None,
    entropy: Wanted = "value",
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Return :func:`token_scores` as a pair, logprobs_N and entropies_N; entropies are zeros if they are not wanted."""
    scores = token_scores(
        hidden_N_H,
        weight_V_H,
        targets_N,
        temperature=temperature,
        softcap=softcap,
        entropy=entropy,
        chunk_elements=chunk_elements,
    )
    return scores.logprobs, torch.zeros_like(scores.logprobs) if scores.entropies is None else scores.entropies
