"""Base classes of task samplers, which choose the next tasks, and batch samplers, which choose the groups of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .component import Component

if TYPE_CHECKING:
    from .data import Group
    from .environment import Environment


class TaskSampler(Component):
    """A task sampler chooses which tasks are sampled next. Kind ``task_sampler``.

    An environment seed names a task. Where the number of tasks is finite (``environment.tasks``), the task is the seed
    modulo that number: two seeds that differ by a multiple of it name the same task.
    """

    __slots__ = ()

    @abstractmethod
    def start(self, first: int, environment: Environment, seed: int) -> TaskSamplerSession:
        """Return the session of one run.

        Every rank has a session, and all of them must draw the same tasks. Random draws therefore use a generator that
        is made from ``seed``, never the random numbers of the process.

        Args:
            first: ``rollout.seed``, the first environment seed.
            environment: the environment whose tasks are drawn.
            seed: the experiment's ``seed``, for what is drawn at random.
        """

    def foreseen(self, first: int, groups: int) -> range | None:
        """Return the environment seeds of the first ``groups`` groups of a run, if they can be known before it starts.

        ``None``, the default, means that they are no range of consecutive seeds, or depend on what is learnt. Before a
        run starts, the tasks of this range are checked; without it, the whole data set is.
        """
        return None


class TaskSamplerSession(ABC):
    """A task sampler in a run."""

    __slots__ = ()

    def begin_step(self, step: int) -> None:  # noqa: B027 - those that never come back to a task need not write it
        """Begin training step ``step`` (from 0). All seeds that are drawn within one step must differ."""

    @abstractmethod
    def draw(self, count: int) -> list[int]:
        """Return the environment seeds of the next ``count`` groups: from 0 below 2^63, and distinct within a step.

        It is called once for each round of sampling. A step may have no round, if its groups were sampled earlier, or
        several, if the batch sampler asks for more groups.
        """

    def learn(self, groups: Sequence[Group]) -> None:  # noqa: B027 - those that do not learn need not write it
        """Learn from the groups that were played, in the order of their draw. It is called after each :meth:`draw`."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: numbers, texts, lists, mappings from texts, and :class:`Group`."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, as a checkpoint gives it back: tuples have become lists."""


class GroupPool(ABC):
    """The source of groups in one training step: the run's tasks, played by the policy of this step."""

    __slots__ = ()

    @abstractmethod
    def sample(self, groups: int) -> list[Group]:
        """Draw ``groups`` tasks from the task sampler, play them, and return them in the order of their seeds.

        There are fewer where the environment has lost some, for instance because a server was down.
        It may be called more than once; seeds and noise are new each time. Each rank plays a share of the groups and
        is given all of them.
        """

    @abstractmethod
    def teaches(self, groups: Sequence[Group]) -> list[bool]:
        """Return which of these groups the rollout filter would keep if they were the whole step, in the given order.

        Raises:
            RunError: the filter's group metric needs numbers that are computed later, such as entropies. A batch
                sampler can refuse such an experiment in its ``check``.
        """


class BatchSampler(Component):
    """A batch sampler chooses which groups make a training step. Kind ``batch_sampler``."""

    __slots__ = ()

    @abstractmethod
    def start(self, groups: int, group_size: int) -> BatchSamplerSession:
        """Return the session of one run. Every rank has a session, and all of them must choose the same groups.

        Args:
            groups: ``rollout.groups``.
            group_size: ``rollout.group_size``, the episodes of a group.
        """

    def draws(self, groups: int) -> int | None:
        """Return how many groups are sampled in each step; ``None`` where that depends on what was sampled."""
        return None


class BatchSamplerSession(ABC):
    """A batch sampler in a run."""

    __slots__ = ()

    @abstractmethod
    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        """Return the groups that make training step ``step`` (from 0): at least one, with distinct seeds.

        The pool gave them, in this step or an earlier one, and they are unchanged since. Their order has no meaning,
        since the groups of a step are ordered by their seeds. The filters may still drop some of them.
        """

    def metrics(self) -> dict[str, float]:
        """Return numbers about the last :meth:`collect`, logged as ``rollout/NAME``, preferably always the same."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs: numbers, texts, lists, mappings from texts, and groups.

        It includes the groups that are kept for a later step, so that a checkpoint holds their episodes.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned, as a checkpoint gives it back: tuples have become lists."""
