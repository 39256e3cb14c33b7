"""The importance weight of a KL term on tokens that an older policy sampled."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

LOG_RATIO_LIMIT = 20.0


def importance_weight(
    logprobs_B_T: Tensor, old_logprobs_B_T: Tensor, mode: Literal["none", "detached", "differentiable"]
) -> Tensor | None:
    """Compute the ratio policy / sampling policy of each token, by which a per-token KL is multiplied.

    ``none`` is no weight at all, ``detached`` a constant, ``differentiable`` also carries the gradient of the ratio.
    With the latter the expected gradient of ``kl`` and of ``low_var_kl`` is that of KL(policy || reference), on-policy
    (the weight is then 1, its gradient is not 0) and off-policy. The log-ratio is clamped to +-20.

    Args:
        logprobs_B_T: [B, T] nats, of the policy.
        old_logprobs_B_T: [B, T] nats, of the policy that sampled.
        mode: how the ratio enters, as above.

    Returns:
        [B, T], or ``None`` for ``none``.
    """
    if mode == "none":
        return None
    weights_B_T = (logprobs_B_T - old_logprobs_B_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return weights_B_T.detach() if mode == "detached" else weights_B_T
