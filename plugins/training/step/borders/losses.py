"""Wrappers that check policy losses, sampler corrections, KL variants and loss aggregations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .....core.components import KlVariant, LossAggregation, LossInputs, PolicyLoss, SamplerCorrection
from .....core.compose.blame import wrong
from .checks import Checked, calling, require_finite, require_number, require_tensor, tensors


class CheckedKl(Checked, KlVariant):
    """A KL variant that is checked."""

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        with calling(self.named, "call", logprobs=logprobs, ref_logprobs=ref_logprobs):
            kl_B_T = self.component(logprobs, ref_logprobs)
        require_tensor(self.named, "call", kl_B_T, logprobs.shape, "[B, T]")
        # outside of a backward pass, waiting for the GPU costs little
        if not self.seen or not logprobs.requires_grad:
            require_finite(self.named, "call", kl_B_T)
        self.seen = True
        return kl_B_T


class CheckedLoss(Checked, PolicyLoss):
    """A policy loss that is checked."""

    def prepare(self, batch: LossInputs) -> Mapping[str, Tensor]:
        with calling(self.named, "prepare", **tensors(batch)):
            prepared = self.component.prepare(batch)
        if prepared is None:
            return {}
        if not isinstance(prepared, Mapping):
            raise wrong(self.named, "prepare", f"gave {type(prepared).__name__}, not a mapping of tensors")
        for name, value in prepared.items():
            if not isinstance(value, Tensor):
                raise wrong(self.named, "prepare", f"gave {name} as {type(value).__name__}, not as a tensor")
            if value.shape != batch.mask.shape[: value.ndim]:
                shapes = f"{list(batch.mask.shape)} ([R, T]), {list(batch.mask.shape[:1])} ([R]) or []"
                raise wrong(self.named, "prepare", f"gave {name} of shape {list(value.shape)}, not {shapes}")
            if value.is_floating_point():
                require_finite(self.named, f"prepare ({name})", value)
        return prepared

    def __call__(self, inputs: LossInputs) -> Any:
        with calling(self.named, "call", **tensors(inputs)):
            result = self.component(inputs)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise wrong(self.named, "call", "must give a LossOutput: loss [B, T], and metrics as (sum, count) pairs")
        loss_B_T, metrics = result
        logprobs = inputs.logprobs
        require_tensor(self.named, "call", loss_B_T, logprobs.shape, "[B, T], one loss for each token")
        for name, pair in metrics.items():
            if not isinstance(pair, tuple) or len(pair) != 2:
                raise wrong(self.named, "call", f"gave the metric {name} as {type(pair).__name__}, not as (sum, count)")
            for value in pair:
                require_number(self.named, "call", name, value, finite=not self.seen)
        if not self.seen:
            # also off the mask: the gradient of a NaN is NaN, whatever it is multiplied with afterwards
            require_finite(self.named, "call", loss_B_T)
            if logprobs.requires_grad and not loss_B_T.requires_grad:
                raise wrong(
                    self.named, "call", "gave a loss that does not depend on the log-probs: nothing would train"
                )
        self.seen = True
        return result


class CheckedCorrection(Checked, SamplerCorrection):
    """A sampler correction that is checked."""

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def correction(self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Any:
        given = {"old_logprobs": old_logprobs, "sampler_logprobs": sampler_logprobs, "mask": mask}
        with calling(self.named, "correction", **given):
            result = self.component.correction(old_logprobs, sampler_logprobs, mask)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], Mapping):
            raise wrong(self.named, "correction", "must give a pair: weights [B, T], and a mapping of metrics")
        weights_B_T = result[0]
        require_tensor(self.named, "correction", weights_B_T, old_logprobs.shape, "[B, T]")
        if weights_B_T.requires_grad:
            raise wrong(self.named, "correction", "gave weights with a gradient: detach them")
        for name, value in result[1].items():
            require_number(self.named, "correction", name, value)
        if not self.seen:
            require_finite(self.named, "correction", weights_B_T)
            if bool((weights_B_T < 0).any()):
                raise wrong(self.named, "correction", "gave negative weights, which would turn gradients around")
        self.seen = True
        return result


class CheckedAggregation(Checked, LossAggregation):
    """A loss aggregation that is checked."""

    def weights(self, mask_B_T: Tensor, max_length: int) -> Tensor:
        with calling(self.named, "weights", mask_B_T=mask_B_T):
            weights_B_T = self.component.weights(mask_B_T, max_length)
        require_tensor(self.named, "weights", weights_B_T, mask_B_T.shape, "[B, T]", torch.float32)
        require_finite(self.named, "weights", weights_B_T)
        if bool((weights_B_T < 0).any()):
            raise wrong(self.named, "weights", "gave negative weights, which would turn gradients around")
        if bool((weights_B_T[~mask_B_T] != 0).any()):
            raise wrong(self.named, "weights", "gave weights off the mask, to tokens that were not sampled")
        return weights_B_T
