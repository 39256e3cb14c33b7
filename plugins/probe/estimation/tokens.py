"""The sampled tokens of a batch stand in one line here, in the order in which they were sampled."""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts


@attrs.frozen(eq=False, slots=False)
class SampledTokens:
    """An object of this class lists all sampled tokens by sequence and turn, whatever the order of the rows is.

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
        """Number of each token's sequence: [N]."""
        return self.of(self.rollouts.episodes[:, None].expand_as(self.rollouts.mask))

    def of(self, table_B_T: Tensor) -> Tensor:
        """Return the entries of a table that belong to the tokens: [N]."""
        return table_B_T[self.rollouts.mask][self._order_N]

    def total(self, x_N: Tensor) -> Tensor:
        """Return the sum over each sequence: [S] float64."""
        zeros_S = torch.zeros(len(self.rollouts.raw_rewards_E), dtype=torch.float64)
        return zeros_S.index_add(0, self.sequence_N, x_N.double())

    def to_come(self, x_N: Tensor) -> Tensor:
        """Return the sum over what comes after each token in its sequence: [N]."""
        return self.total(x_N).cumsum(0)[self.sequence_N] - x_N.cumsum(0)
