"""Base classes of what decides what is sampled: which tasks come next, and which groups make a training step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .component import Component

if TYPE_CHECKING:
    from .data import Group
    from .engines import Environment


class TaskSampler(Component):
    """Kind ``task_sampler``: which tasks come next.

    An environment seed names a task. In a data set that is finite (``environment.tasks``) the task is the seed modulo
    the number of tasks, so that seeds that differ by a multiple of it are the same task.
    """

    __slots__ = ()

    @abstractmethod
    def start(self, first: int, environment: Environment, seed: int) -> TaskSamplerSession:
        """A run begins. ``first`` is ``rollout.seed``; ``seed``, the experiment's, is for what is drawn at random.

        Every rank has a session of its own, and all of them must draw the same: by a generator made from ``seed``,
        never by the random numbers of the process.
        """

    def foreseen(self, first: int, groups: int) -> range | None:
        """The environment seeds of the first ``groups`` groups of a run.

        ``None`` where they are in no such order, or depend on what is learnt. What is foreseen is measured before a
        run starts, in place of the whole data set.
        """
        return None


class TaskSamplerSession(ABC):
    """A running task sampler."""

    __slots__ = ()

    def begin_step(self, step: int) -> None:  # noqa: B027 - those that never come back to a task need not write it
        """Training step ``step`` (from 0) begins: the seeds that are drawn from here to the next one must differ."""

    @abstractmethod
    def draw(self, count: int) -> list[int]:
        """The environment seeds of the next ``count`` groups: from 0 below 2^63, and distinct within a step.

        It is called once for each round of sampling: not at all in a step that is made of older groups, and more than
        once where a batch sampler goes on.
        """

    def learn(self, groups: Sequence[Group]) -> None:  # noqa: B027 - those that do not learn need not write it
        """Hear of the groups that were played, in the order in which they were drawn; after each ``draw``."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: numbers, texts, lists, mappings from texts, and :class:`Group` itself."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()`` as it was read from a checkpoint, where tuples are lists."""


class GroupPool(ABC):
    """What a batch sampler samples from in one training step: the run's tasks, played by the policy of this step."""

    __slots__ = ()

    @abstractmethod
    def sample(self, groups: int) -> list[Group]:
        """Draw this many tasks from the task sampler and play them; in the order of their seeds.

        May be called more than once; seeds and noise are new each time. All ranks play their share of them, and each
        is given them all.
        """

    @abstractmethod
    def teaches(self, groups: Sequence[Group]) -> list[bool]:
        """Which of these groups the rollout filter would keep if they were the step, in the given order.

        That is asked before the policy scores them, so only a group metric of rewards, lengths and the like can tell.

        Raises:
            RunError: the filter's group metric needs more, such as entropies; the message names it. A batch sampler
                can refuse such an experiment in its ``check``.
        """


class BatchSampler(Component):
    """Kind ``batch_sampler``: which groups make a training step."""

    __slots__ = ()

    @abstractmethod
    def start(self, groups: int, group_size: int) -> BatchSamplerSession:
        """A run begins. ``groups`` and ``group_size`` (episodes of a group) are those of ``rollout``.

        Every rank has a session of its own, and all of them must do the same.
        """

    def draws(self, groups: int) -> int | None:
        """How many groups are sampled in each step; ``None`` where that depends on what was sampled."""
        return None


class BatchSamplerSession(ABC):
    """A running batch sampler."""

    __slots__ = ()

    @abstractmethod
    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        """The groups that make training step ``step`` (from 0): at least one, with distinct seeds.

        They come from the pool, now or in an earlier step, and are as the pool gave them. Their order has no meaning:
        a step's groups are ordered by their seeds. A filter may still leave some of them out.
        """

    def metrics(self) -> dict[str, float]:
        """Numbers about the last ``collect``, logged as ``rollout/NAME``; the same names each time are best."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: numbers, texts, lists, mappings from texts, and :class:`Group` itself.

        Groups that are kept for a later step belong here; a checkpoint then holds their episodes.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()`` as it was read from a checkpoint, where tuples are lists."""
