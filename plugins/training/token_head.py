"""The token head: log-prob and entropy of chosen tokens from hidden states, without the [tokens, vocabulary] matrix.

Tokens are taken in chunks; each chunk's logits exist only while it is computed, in fp32, and are computed again in the
backward pass. A chunk that holds everything (a small model) is kept instead, since recomputing would only cost time.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits held at once, in numbers of fp32 (2**25 are 128 MiB)."""


def _chunk(
    hidden_N_H: Tensor, weight_V_H: Tensor, targets_N: Tensor, temperature: float, softcap: float | None, entropy: str
) -> tuple[Tensor, Tensor]:
    logits_N_V = (hidden_N_H @ weight_V_H.T).float()
    if softcap:
        logits_N_V = softcap * torch.tanh(logits_N_V / softcap)
    logits_N_V = logits_N_V / temperature
    # Relative to the largest one, a peaked distribution keeps the digits of its small entropy.
    logits_N_V = logits_N_V - logits_N_V.detach().amax(-1, keepdim=True)
    normaliser_N = logits_N_V.logsumexp(-1)
    logprobs_N = logits_N_V.gather(-1, targets_N[:, None]).squeeze(-1) - normaliser_N
    if entropy == "none":
        return logprobs_N, torch.zeros_like(logprobs_N)
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probs_N_V = torch.exp(logits_N_V - normaliser_N[:, None])
        entropies_N = normaliser_N - (probs_N_V * logits_N_V).sum(-1)
    return logprobs_N, entropies_N


def token_logprobs(
    hidden_N_H: Tensor,
    weight_V_H: Tensor,
    targets_N: Tensor,
    temperature: float = 1.0,
    softcap: float | None = None,
    entropy: str = "value",
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy of its distribution, in nats at ``temperature``, always in fp32.

    Args:
        hidden_N_H: last hidden states that predict the targets.
        weight_V_H: the output embedding.
        targets_N: token ids.
        temperature: divides the fp32 logits before the softmax.
        softcap: ``cap * tanh(logits / cap)`` before the temperature (Gemma 2), or ``None``.
        entropy: ``gradient`` (differentiable), ``value`` (no gradient) or ``none`` (zeros).
        chunk_elements: how many logits may exist at once; at least one row is always taken.

    Returns:
        logprobs_N and entropies_N.
    """
    compute = partial(_chunk, temperature=temperature, softcap=softcap, entropy=entropy)
    rows = max(1, chunk_elements // weight_V_H.shape[0])
    if len(targets_N) <= rows:
        return compute(hidden_N_H, weight_V_H, targets_N)
    # without a backward pass there is nothing to save, and a forward-mode derivative cannot pass a checkpoint
    run = partial(checkpoint, compute, use_reentrant=False) if torch.is_grad_enabled() else compute
    chunks = [
        run(hidden, weight_V_H, targets)
        for hidden, targets in zip(hidden_N_H.split(rows), targets_N.split(rows), strict=True)
    ]
    return torch.cat([logprobs for logprobs, _ in chunks]), torch.cat([entropies for _, entropies in chunks])
