"""The built-in batch samplers choose which groups make a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...core.components import BatchSampler, BatchSamplerSession, Group, GroupPool


@attrs.frozen
class FixedSession(BatchSamplerSession):
    """A batch sampler in a run, whose steps all have the same number of groups."""

    groups: int
    """The number of groups of a step."""

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        return pool.sample(self.groups)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing, since there is no state."""


@attrs.frozen
class Fixed(BatchSampler):
    """Each step has ``rollout.groups`` new groups, sampled at once; the filters then choose which of them train."""

    def start(self, groups: int, group_size: int) -> FixedSession:
        return FixedSession(groups)

    def draws(self, groups: int) -> int:
        return groups
