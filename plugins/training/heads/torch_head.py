"""The head ``torch`` is the reference and runs on every device."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from attrs import validators
from torch import Tensor

from ....core.components import TokenHead, TokenScores
from ..networks.token_head import CHUNK_ELEMENTS, token_scores


@attrs.frozen
class Torch(TokenHead):
    """Compute chunks of rows in plain torch, each chunk's logits in fp32 and once more in the backward pass.

    It runs on every device, and is the only head that can be differentiated in forward mode, as the probe does.
    """

    chunk_elements: int = attrs.field(default=CHUNK_ELEMENTS, validator=[validators.ge(1), validators.le(1 << 30)])
    """Number of fp32 logits that are held at once (2**25 are 128 MiB); at least one row is always taken."""

    def on(self, device: torch.device) -> Torch:
        return self

    def __call__(self, hidden_N_H: Tensor, weight_V_H: Tensor, targets_N: Tensor, **options: Any) -> TokenScores:
        """See :class:`~....core.components.TokenHead`."""
        return token_scores(hidden_N_H, weight_V_H, targets_N, chunk_elements=self.chunk_elements, **options)
