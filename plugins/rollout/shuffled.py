"""``shuffled`` goes through a data set in a new order each time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import attrs

from ...core.components import Environment, TaskSampler, TaskSamplerSession


@attrs.frozen
class Shuffled(TaskSampler):
    """All tasks of a finite data set come once, in a random order, and then once more in another one, and so on.

    Such a pass is an epoch. With N tasks (``environment.tasks``), epoch e (from 0) has the environment seeds from
    ``rollout.seed + e * N`` to ``rollout.seed + (e + 1) * N - 1``, which are each task once; their order is drawn from
    the experiment's ``seed`` and e alone. An epoch may end within a step. Tasks that are made without end have no
    order to shuffle: they come in the order of their seeds, as with ``sequential``.
    """

    def start(self, first: int, environment: Environment, seed: int) -> ShuffledSession:
        return ShuffledSession(Epochs(first, environment.tasks, seed))


@attrs.define
class Epochs:
    """The seeds of a run by their number, from 0."""

    first: int
    tasks: int | None
    """Tasks of the data set; ``None`` where they are made without end."""
    seed: int
    _epoch: int = attrs.field(default=-1, init=False)
    _order: list[int] = attrs.field(factory=list, init=False)

    def at(self, number: int) -> int:
        """Return the environment seed that comes as number ``number`` (from 0) of the run."""
        if self.tasks is None:
            return self.first + number
        epoch, place = divmod(number, self.tasks)
        if epoch != self._epoch:
            self._order = list(range(self.tasks))
            # a text seeds the same way in every process
            random.Random(f"epoch {epoch} of {self.seed}").shuffle(self._order)
            self._epoch = epoch
        return self.first + epoch * self.tasks + self._order[place]


@attrs.define
class ShuffledSession(TaskSamplerSession):
    """How many groups have been drawn."""

    epochs: Epochs
    drawn: int = 0

    def draw(self, count: int) -> list[int]:
        numbers = range(self.drawn, self.drawn + count)
        self.drawn = numbers.stop
        return [self.epochs.at(number) for number in numbers]

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.drawn = int(state["drawn"])
