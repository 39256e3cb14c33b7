"""The head ``auto`` is the built-in head that is fastest on the device."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import TokenHead, TokenScores
from .torch_head import Torch
from .triton_head import Triton


@attrs.frozen
class Auto(TokenHead):
    """Use ``triton`` on a GPU where Triton is installed (it comes with torch on Linux), else ``torch``."""

    def on(self, device: torch.device) -> TokenHead:
        return Triton() if device.type == "cuda" and find_spec("triton") else Torch()

    def __call__(self, hidden_N_H: Tensor, weight_V_H: Tensor, targets_N: Tensor, **options: Any) -> TokenScores:
        """See :class:`~....core.components.TokenHead`."""
        return self.on(hidden_N_H.device)(hidden_N_H, weight_V_H, targets_N, **options)
