"""A policy loss whose rows depend on each other."""

from __future__ import annotations

from typing import ClassVar

import attrs
import torch
from uncollapse.core.components import LossInputs, LossOutput, PolicyLoss


@attrs.frozen
class ForkingTokens(PolicyLoss):
    """Train on the share of tokens with the highest entropy: those at which a response could have gone another way.

    ``loss = -A exp(logprob - old_logprob)``, clipped as in PPO, where the token's entropy is among the highest
    ``share`` of all tokens of the optimizer step, else 0. Metric: ``forking`` (share of tokens that train).
    Source: Wang et al. (2025), "Beyond the 80/20 Rule".
    """

    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    share: float = attrs.field(default=0.2, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    """Share of the tokens of an optimizer step that train."""
    clip: float = attrs.field(default=0.2, validator=attrs.validators.gt(0))
    """Distance of the ratio from 1 beyond which it stops counting."""

    def prepare(self, batch: LossInputs) -> dict[str, torch.Tensor]:
        """Find the tokens that train, once and over all rows, since the threshold couples them."""
        entropies_N = batch.entropies[batch.mask]
        bound = entropies_N.quantile(1 - self.share)
        return {"forking": batch.mask & (batch.entropies >= bound)}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        forking_B_T = inputs.prepared["forking"]
        # Masked before any arithmetic: what stands off the mask may be NaN.
        ratio_B_T = torch.where(forking_B_T, inputs.logprobs - inputs.old_logprobs, 0.0).exp()
        advantages_B_T = torch.where(forking_B_T, inputs.advantages, 0.0)
        clipped_B_T = ratio_B_T.clamp(1 - self.clip, 1 + self.clip)
        loss_B_T = torch.maximum(-advantages_B_T * ratio_B_T, -advantages_B_T * clipped_B_T)
        return LossOutput(loss_B_T, {"forking": (forking_B_T.sum(), inputs.mask.sum())})
