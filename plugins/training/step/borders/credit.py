"""Wrappers that check reward shapings and advantage estimators."""

from __future__ import annotations

import attrs
from torch import Tensor

from .....core.components import AdvantageEstimator, Advantages, CreditInputs, RewardShaping, ShapingInputs
from .....core.compose.blame import wrong
from .checks import Checked, calling, require_finite, require_tensor, tensors


class CheckedShaping(Checked, RewardShaping):
    """A reward shaping that is checked."""

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def shape(self, inputs: ShapingInputs) -> Tensor:
        with calling(self.named, "shape", **tensors(inputs)):
            rewards_E = self.component.shape(inputs)
        require_tensor(self.named, "shape", rewards_E, inputs.rewards_E.shape, "[E]")
        rewards_E = rewards_E.to(inputs.rewards_E)
        require_finite(self.named, "shape", rewards_E)
        if rewards_E.requires_grad:
            raise wrong(self.named, "shape", "gave rewards with a gradient: detach them")
        return rewards_E


class CheckedAdvantage(Checked, AdvantageEstimator):
    """An advantage estimator that is checked."""

    def compute(self, batch: CreditInputs) -> Advantages:
        with calling(self.named, "compute", **tensors(batch)):
            result = self.component.compute(batch)
        if not isinstance(result, Advantages):
            raise wrong(self.named, "compute", f"gave {type(result).__name__}, not Advantages")
        for name, value in attrs.asdict(result, recurse=False).items():
            require_tensor(self.named, f"compute ({name})", value, batch.rewards.shape, "[B, T]")
            require_finite(self.named, f"compute ({name})", value)
            if value.requires_grad:
                raise wrong(self.named, f"compute ({name})", "has a gradient: detach it")
            if bool((value[~batch.mask] != 0).any()):
                raise wrong(
                    self.named, f"compute ({name})", "is not zero off the mask, on tokens that were not sampled"
                )
        return result
