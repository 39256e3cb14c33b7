"""Wrappers check what task samplers and batch samplers return.

Without these checks, a task that is played twice, or a group that a sampler has changed, would train unnoticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

from ...core.components import (
    BatchSampler,
    BatchSamplerSession,
    Environment,
    Group,
    GroupPool,
    TaskSampler,
    TaskSamplerSession,
)
from ...core.compose.blame import blaming, confined, require_session, wrong
from ...core.compose.named import Named
from ...core.errors import RunError
from .sampler_state import from_plain, group_of, to_plain

SEEDS = 2**63
"""The limit of environment seeds, since group ids are whole numbers of 64 bits."""
OWN = ("filter_", "in_group_", "chosen_in_group_", "episode_", "logprob_gap", "groups_lost")
"""First parts of names below ``rollout/`` that are the run's own."""


class CheckedTaskSampler(TaskSampler):
    """A task sampler whose seeds are checked.

    Raises:
        RunError: it raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named) -> None:
        self.named = named

    def start(self, first: int, environment: Environment, seed: int) -> CheckedTaskSamplerSession:
        with confined(self.named, "start"):
            session = self.named.component.start(first, environment, seed)
        require_session(self.named, "start", session, TaskSamplerSession)
        return CheckedTaskSamplerSession(self.named, session)

    def foreseen(self, first: int, groups: int) -> range | None:
        with confined(self.named, "foreseen"):
            seeds = self.named.component.foreseen(first, groups)
        if seeds is not None and not isinstance(seeds, range):
            raise wrong(self.named, "foreseen", f"gave {type(seeds).__name__}, not a range or None")
        return seeds


class CheckedTaskSamplerSession(TaskSamplerSession):
    """A task sampler in a run, which must not draw a seed twice in a step."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session
        self._drawn: set[int] = set()

    def begin_step(self, step: int) -> None:
        self._drawn.clear()
        with confined(self.named, "begin_step"):
            self.session.begin_step(step)

    def draw(self, count: int) -> list[int]:
        with confined(self.named, "draw"):
            drawn = self.session.draw(count)
        if isinstance(drawn, str) or not isinstance(drawn, Sequence):
            raise wrong(self.named, "draw", f"gave {type(drawn).__name__}, not a list of environment seeds")
        if len(drawn) != count:
            raise wrong(self.named, "draw", f"gave {len(drawn)} seeds where {count} were asked for")
        seeds = [self._seed(value) for value in drawn]
        for seed in seeds:
            if seed in self._drawn:
                raise wrong(self.named, "draw", f"gave the seed {seed} twice in a step: it would be one group")
            self._drawn.add(seed)
        return seeds

    def _seed(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < SEEDS:
            raise wrong(self.named, "draw", f"gave {value!r}, which is no seed: a whole number from 0 below 2^63")
        return int(value)

    def learn(self, groups: Sequence[Group]) -> None:
        with confined(self.named, "learn"):
            self.session.learn(groups)

    def state_dict(self) -> dict[str, Any]:
        return _state(self.named, self.session)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _restore(self.named, self.session, state)


class CheckedBatchSampler(BatchSampler):
    """A batch sampler whose groups are checked.

    Raises:
        RunError: it raised an error or broke its contract; the message names it.
    """

    def __init__(self, named: Named) -> None:
        self.named = named

    def start(self, groups: int, group_size: int) -> CheckedBatchSamplerSession:
        with confined(self.named, "start"):
            session = self.named.component.start(groups, group_size)
        require_session(self.named, "start", session, BatchSamplerSession)
        return CheckedBatchSamplerSession(self.named, session)

    def draws(self, groups: int) -> int | None:
        with confined(self.named, "draws"):
            drawn = self.named.component.draws(groups)
        if drawn is not None and (isinstance(drawn, bool) or not isinstance(drawn, int) or drawn < 0):
            raise wrong(self.named, "draws", f"gave {drawn!r}, which is no number of groups")
        return drawn


class CheckedBatchSamplerSession(BatchSamplerSession):
    """A batch sampler in a run, whose groups must be those of the pool."""

    def __init__(self, named: Named, session: Any) -> None:
        self.named, self.session = named, session

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        """Return the groups of the step, ordered by their seeds."""
        watched = _WatchedPool(pool)
        try:
            with blaming(self.named, "collect"):  # not confined: engines sample meanwhile
                groups = self.session.collect(watched, step)
        except RunError as error:
            if error.__cause__ is None or error.__cause__ is not watched.failure:
                raise
            raise watched.failure from None  # the pool has failed, not the sampler
        if not isinstance(groups, list | tuple):
            raise wrong(self.named, "collect", f"gave {type(groups).__name__}, not a list of groups")
        if not groups:
            raise wrong(self.named, "collect", "gave no group: a filter may leave all of them out, a sampler not")
        for group in groups:
            self._check(group, step)
        seeds = sorted(group.seed for group in groups)
        if twice := [seed for seed, after in pairwise(seeds) if seed == after]:
            raise wrong(self.named, "collect", f"gave two groups of the seed {twice[0]}, which would be one group")
        return sorted(groups, key=lambda group: group.seed)

    def _check(self, group: Any, step: int) -> None:
        if not isinstance(group, Group):
            raise wrong(self.named, "collect", f"gave {type(group).__name__}, not a Group of the pool")
        if not 0 <= group.step <= step:
            raise wrong(self.named, "collect", f"gave a group of step {group.step} in step {step}")
        if not group.episodes or group != group_of(group.episodes, group.step):
            what = f"gave the group of the seed {group.seed} otherwise than the pool: groups are taken as they are"
            raise wrong(self.named, "collect", what)
        members = {(episode.seed, episode.member) for episode in group.episodes}
        if len(members) < len(group.episodes) or any(seed != group.seed for seed, _ in members):
            raise wrong(self.named, "collect", f"gave a group of the seed {group.seed} with episodes of others")

    def metrics(self) -> dict[str, float]:
        """Return the metrics under their names in the log."""
        with confined(self.named, "metrics"):
            metrics = self.session.metrics()
        if not isinstance(metrics, Mapping):
            raise wrong(self.named, "metrics", f"gave {type(metrics).__name__}, not a mapping of numbers")
        for name, value in metrics.items():
            if not isinstance(name, str) or not name or "/" in name or name.startswith(OWN):
                what = f"gave a metric the name {name!r}: it is logged as rollout/NAME, where the run has names itself"
                raise wrong(self.named, "metrics", what)
            if not isinstance(value, Real) or not math.isfinite(value):
                raise wrong(self.named, "metrics", f"gave {value!r} for {name}, which is not a finite number")
        return {f"rollout/{name}": float(value) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        return _state(self.named, self.session)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _restore(self.named, self.session, state)


class _WatchedPool(GroupPool):
    """A pool that remembers its own error, so that the sampler is not blamed for it."""

    def __init__(self, pool: GroupPool) -> None:
        self._pool = pool
        self.failure: BaseException | None = None

    def sample(self, groups: int) -> list[Group]:
        with self._watching():
            return self._pool.sample(groups)

    def teaches(self, groups: Sequence[Group]) -> list[bool]:
        with self._watching():
            return self._pool.teaches(groups)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.failure = error
            raise


def _state(named: Named, session: Any) -> dict[str, Any]:
    """Return the session's state as a checkpoint holds it."""
    with confined(named, "state_dict"):
        state = session.state_dict()
    if not isinstance(state, Mapping):
        raise wrong(named, "state_dict", f"gave {type(state).__name__}, not a mapping")
    try:
        return dict(to_plain(state))
    except ValueError as error:
        raise wrong(named, "state_dict", str(error)) from error


def _restore(named: Named, session: Any, state: Mapping[str, Any]) -> None:
    restored = from_plain(state)
    with confined(named, "load_state_dict"):
        session.load_state_dict(restored)
