"""The importance weight of a KL term on tokens that an older policy sampled."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def importance_weight(
    logprobs: Tensor, old_logprobs: Tensor, mode: Literal["none", "detached", "differentiable"]
) -> Tensor | None:
    """The ratio policy / sampling policy of each token, to multiply a per-token KL with.

    ``none`` is no weight at all, ``detached`` a constant, ``differentiable`` also carries the gradient of the ratio.
    With the latter the expected gradient of ``kl`` and of ``low_var_kl`` is that of KL(policy || reference), on-policy
    (the weight is then 1, its gradient is not 0) and off-policy. The log-ratio is clamped to +-20.

    Args:
        logprobs: [B, T] nats, of the policy.
        old_logprobs: [B, T] nats, of the policy that sampled.
        mode: how the ratio enters, as above.

    Returns:
        [B, T], or ``None`` for ``none``.
    """
    if mode == "none":
        return None
    weight = (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return weight.detach() if mode == "detached" else weight
