"""Losses around another loss: which of its tokens or rows keep their gradient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs
import torch
from attrs.validators import gt, le
from torch import Tensor

from ...core.components import LossInputs, LossOutput, PolicyLoss
from ...core.compose.fields import component
from ...core.compose.inner import refuse_itself
from .ratios import row_mean, share


class _Around(PolicyLoss):
    """A loss around another loss, which has that one's ratio."""

    __slots__ = ()

    of: Any

    @property
    def ratio_of(self) -> Literal["tokens", "rows"]:  # type: ignore[override]
        ratio: Literal["tokens", "rows"] = self.of.component.ratio_of
        return ratio

    @property
    def corrects(self) -> bool:  # type: ignore[override]
        return bool(self.of.component.corrects)

    @property
    def spreads(self) -> bool:  # type: ignore[override]
        return bool(self.of.component.spreads)


@attrs.frozen
class TopEntropy(_Around):
    """Another loss, on the most uncertain tokens only.

    Of the tokens of an optimizer step the share ``share`` with the highest entropy trains: those with
    ``H >= quantile(H, 1 - share)``, H (nats) of the policy just before the optimizer step. The others have no gradient
    of this loss, and still count where the loss is averaged. KL and entropy terms go on everywhere.

    Source: Wang et al. 2025 (arXiv 2506.01939), which trains on 20 %. TRL 1.16.0 (``top_entropy_quantile``) has
    the same rule, with the quantile of each micro-batch and the entropies of the pass that trains.
    """

    share: float = attrs.field(default=0.2, validator=[gt(0), le(1)])
    """Share of the tokens that train."""
    of: Any = component("policy_loss", "ppo")  # noqa: RUF009 - makes an attrs field
    """The loss of the tokens that train."""

    needs = frozenset({"entropies", "logprobs", "minibatch"})

    def __attrs_post_init__(self) -> None:
        refuse_itself(self, "the smaller share alone would count")

    def check(self, experiment: Any) -> Iterable[str]:
        """Yield why it cannot work: a token that is left out must not train through its neighbours."""
        if self.spreads:
            yield (
                f"leaves single tokens out, and the loss of a token of {self.of.name} trains all tokens of its row: "
                "give of a loss whose tokens train alone, such as gspo or ppo"
            )

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        assert batch.entropies is not None
        threshold = batch.entropies[batch.mask].quantile(1 - self.share)
        uncertain_B_T = (batch.entropies >= threshold) & batch.mask
        return {**(self.of.component.prepare(batch) or {}), "top_entropy": uncertain_B_T}

    def __call__(self, inputs: LossInputs) -> LossOutput:
        uncertain_B_T = inputs.prepared["top_entropy"]
        loss_B_T, metrics = self.of.component(inputs)
        return LossOutput(
            torch.where(uncertain_B_T, loss_B_T, 0.0),
            {**metrics, "top_entropy_share": share(uncertain_B_T, inputs.mask)},
        )


@attrs.frozen
class OffPolicyMask(_Around):
    """Another loss, without the bad tokens of rows from which the policy has moved away.

    A token has no gradient where A < 0 and ``mean over its row of (log mu - log pi) > threshold``, mu being what
    sampled the row: negative examples of a policy that is no longer this one only destabilise it.

    Source: DeepSeek-V3.2 (arXiv 2512.02556, equation 9), which gives no threshold. TRL 1.16.0
    (``off_policy_mask_threshold``) suggests 0.5; slime's default is 1e-4.
    """

    threshold: float = attrs.field(default=0.5, validator=gt(0))
    """The largest mean (nats per token) with which a row's bad tokens still train."""
    of: Any = component("policy_loss", "ppo")  # noqa: RUF009 - makes an attrs field
    """The loss of the tokens that train."""

    needs = frozenset({"sampler_logprobs"})

    def __attrs_post_init__(self) -> None:
        refuse_itself(self, "the smaller threshold alone would count")

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor] | None:
        prepared: Mapping[str, Tensor] | None = self.of.component.prepare(batch)
        return prepared

    def __call__(self, inputs: LossInputs) -> LossOutput:
        assert inputs.sampler_logprobs is not None
        moved_B_1 = row_mean(inputs.sampler_logprobs - inputs.logprobs.detach(), inputs.mask)
        dropped_B_T = (inputs.advantages < 0) & (moved_B_1 > self.threshold) & inputs.mask
        loss_B_T, metrics = self.of.component(inputs)
        return LossOutput(
            torch.where(dropped_B_T, 0.0, loss_B_T), {**metrics, "off_policy_dropped": share(dropped_B_T, inputs.mask)}
        )
