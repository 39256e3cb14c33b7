"""The sampled tokens of a batch in one line, as they were sampled: the order in which running sums meet them."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts


@attrs.frozen(eq=False, slots=False)
class SampledTokens:
    """All sampled tokens, sequence by sequence and turn by turn, in whatever order the rows of the rollouts are.

    A sequence is one episode. What the environment wrote is not among them.
    """

    rollouts: Rollouts

    @cached_property
    def _order_N(self) -> Tensor:
        mask, turns_B_T = self.rollouts.mask, self.rollouts.turns
        episodes_B_T = self.rollouts.episodes[:, None].expand_as(mask)
        return (episodes_B_T * (turns_B_T.max() + 1) + turns_B_T)[mask].argsort(stable=True)

    @cached_property
    def sequence_N(self) -> Tensor:
        """[N]: the number of each token's sequence."""
        return self.of(self.rollouts.episodes[:, None].expand_as(self.rollouts.mask))

    def of(self, table_B_T: Tensor) -> Tensor:
        """[N]: the entries of a table that belong to the tokens."""
        return table_B_T[self.rollouts.mask][self._order_N]

    def total(self, x_N: Tensor) -> Tensor:
        """[S] float64: the sum over each sequence."""
        zeros_S = torch.zeros(len(self.rollouts.raw_rewards_E), dtype=torch.float64)
        return zeros_S.index_add(0, self.sequence_N, x_N.double())

    def to_come(self, x_N: Tensor) -> Tensor:
        """[N]: the sum over what comes after each token in its sequence."""
        return self.total(x_N).cumsum(0)[self.sequence_N] - x_N.cumsum(0)
