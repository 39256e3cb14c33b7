"""Which groups make a training step: the built-in batch samplers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...core.components import BatchSampler, BatchSamplerSession, Group, GroupPool


@attrs.frozen
class FixedSession(BatchSamplerSession):
    """How many groups a step has."""

    groups: int

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        return pool.sample(self.groups)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """There is nothing to restore."""


@attrs.frozen
class Fixed(BatchSampler):
    """Each step has ``rollout.groups`` new groups, sampled at once; a filter then says which of them train."""

    def start(self, groups: int, group_size: int) -> FixedSession:
        return FixedSession(groups)

    def draws(self, groups: int) -> int:
        return groups
