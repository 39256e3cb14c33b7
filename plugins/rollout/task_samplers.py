"""The built-in task samplers choose which tasks are sampled next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ...core.components import Environment, TaskSampler, TaskSamplerSession


@attrs.define
class SequentialSession(TaskSamplerSession):
    """A task sampler in a run, which counts seeds upwards."""

    next: int
    """The seed of the next group."""

    def draw(self, count: int) -> list[int]:
        seeds = range(self.next, self.next + count)
        self.next = seeds.stop
        return list(seeds)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = int(state["next"])


@attrs.frozen
class Sequential(TaskSampler):
    """Tasks come in the order of their seeds: ``rollout.seed``, then the next one, and so on.

    With ``n`` groups a step, step k (from 0) plays the seeds from ``rollout.seed + k * n`` to
    ``rollout.seed + (k + 1) * n - 1``. A finite data set is read from row ``rollout.seed`` modulo its size, and
    from its first row again after the last.
    """

    def start(self, first: int, environment: Environment, seed: int) -> SequentialSession:
        return SequentialSession(first)

    def foreseen(self, first: int, groups: int) -> range:
        return range(first, first + groups)
