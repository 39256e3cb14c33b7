"""The KL variant ``jeffreys`` looks at the policy and the reference alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import attrs
from uncollapse.core.components import KlVariant

if TYPE_CHECKING:
    from torch import Tensor


@attrs.frozen
class Jeffreys(KlVariant):
    """Half of Jeffreys' divergence, ``r * (1 - exp(-r)) / 2`` with ``r = logprob - ref_logprob`` of the sampled token.

    Its mean under the policy is ``(KL(policy || ref) + KL(ref || policy)) / 2``: the two directions together, halved so
    that near the reference it agrees with KL(policy || ref) to second order. It is never negative for any token, but
    grows like ``exp(-r)`` where the reference finds a token far more likely than the policy does.
    [B, T], [B, T] -> [B, T] nats. Source: Jeffreys (1946), "An invariant form for the prior probability".
    """

    value_bias: ClassVar[str] = "none for half of Jeffreys' divergence; as KL(policy || ref) off by half the asymmetry"
    gradient_bias: ClassVar[str] = (
        "that of KL(ref || policy) is exact; in that of KL(policy || ref) the reference's probabilities weight the "
        "tokens instead of the policy's"
    )

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        ratio = logprobs - ref_logprobs
        return ratio * (1 - (-ratio).exp()) / 2
