"""A policy loss whose rows depend on each other."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from uncollapse.core.components import LossInputs, LossOutput, PolicyLoss


@attrs.frozen
class ForkingTokens(PolicyLoss):
    """Trains on the share of tokens with the highest entropy: those at which a response could have gone another way.

    ``loss = -A exp(logprob - old_logprob)``, clipped as in PPO, where the token's entropy is among the highest
    ``share`` of all tokens of the optimizer step, else 0. Metric: ``forking`` (share of tokens that train).
    Source: Wang et al. (2025), "Beyond the 80/20 Rule".
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    share: float = attrs.field(default=0.2, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    """Of the tokens of an optimizer step."""
    clip: float = attrs.field(default=0.2, validator=attrs.validators.gt(0))
    """The ratio stops counting this far from 1."""

    def prepare(self, batch: LossInputs) -> dict[str, torch.Tensor]:
        """The threshold couples rows, so it is taken once, over all of them."""
        entropies = batch.entropies[batch.mask]
        bound = entropies.quantile(1 - self.share)
        return {"forking": batch.mask & (batch.entropies >= bound)}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        forking = inputs.prepared["forking"]
        # Masked before any arithmetic: what stands off the mask may be NaN.
        ratio = torch.where(forking, inputs.logprobs - inputs.old_logprobs, 0.0).exp()
        advantages = torch.where(forking, inputs.advantages, 0.0)
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        loss_B_T = torch.maximum(-advantages * ratio, -advantages * clipped)
        return LossOutput(loss_B_T, {"forking": (forking.sum(), inputs.mask.sum())})
