"""The head ``trl`` adapts ``trl.kernels.ChunkedLogProbFunction``, so that results can be compared with it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, ClassVar

import attrs
import torch
from attrs import validators
from torch import Tensor

from ....core.components import TokenHead, TokenScores, Wanted
from ....core.errors import RequestError

MISSING = "needs trl 1.16 or newer, which is not installed"


@attrs.frozen
class Trl(TokenHead):
    """Use the chunked log-prob kernel of TRL (``trl.kernels``, 1.16): tiles of 4,096 tokens, folded by Triton on a GPU.

    It takes one temperature for all rows and computes neither second moments nor collision
    probabilities; other requests are refused.
    """

    gives: ClassVar[frozenset[str]] = frozenset()

    columns: int = attrs.field(default=32768, validator=[validators.ge(1), validators.le(1 << 24)])
    """Number of columns of the vocabulary in one tile; the default is that of TRL's trainers."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reasons why it cannot work on this machine."""
        if not find_spec("trl"):
            yield MISSING

    def on(self, device: torch.device) -> Trl:
        if not find_spec("trl"):
            raise RequestError(f"the token head trl {MISSING}", "model.head", "pip install 'trl>=1.16', or use auto")
        return self

    def __call__(
        self,
        hidden_N_H: Tensor,
        weight_V_H: Tensor,
        targets_N: Tensor,
        *,
        temperature: float | Tensor = 1.0,
        softcap: float | None = None,
        entropy: Wanted = "value",
        second_moment: Wanted = "none",
        collision_prob: Wanted = "none",
    ) -> TokenScores:
        """See :class:`~....core.components.TokenHead`."""
        self.on(hidden_N_H.device)
        refused = {
            "temperatures of single rows": isinstance(temperature, Tensor),
            "second moments": second_moment != "none",
            "collision probabilities": collision_prob != "none",
        }
        if any(refused.values()):
            what = " and no ".join(name for name, asked in refused.items() if asked)
            raise RequestError(f"the token head trl knows no {what}", "model.head", "use torch, triton or auto")
        from trl.kernels import ChunkedLogProbFunction

        # if only the value of the entropy is wanted, it is detached below: TRL's function gives it a gradient
        outputs = () if entropy == "none" else ("entropy",)
        logprobs_N, entropies_N, *_ = ChunkedLogProbFunction.apply(
            hidden_N_H, weight_V_H, None, targets_N, temperature, self.columns, softcap or None, 1.0, outputs
        )
        return TokenScores(logprobs_N, entropies_N.detach() if entropy == "value" else entropies_N)
