"""The laws of task samplers and batch samplers say that every rank and every resumed run samples the same."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from ...core.components import Env, Environment, Group, GroupPool
from ...core.compose.named import Named
from ...core.files import to_json
from ...plugins.rollout.sampler_borders import (
    CheckedBatchSampler,
    CheckedBatchSamplerSession,
    CheckedTaskSampler,
    CheckedTaskSamplerSession,
)
from .. import samples
from ..problems import laws, require

FIRST, SEED, COUNT, GROUP = 40, 7, 4, 2
STEPS = 5


@attrs.frozen
class World(Environment):
    """An environment that nobody plays; ``tasks`` is its number of tasks."""

    tasks: int | None = None
    instruction = "Wait."
    actions = ("Wait",)

    def make(self, seed: int, member: int = 0) -> Env:
        raise NotImplementedError


WORLDS = (World(), World(3 * COUNT), World(COUNT - 1))
"""Environments without end, with a few tasks, and with fewer tasks than a step has groups."""


class Pool(GroupPool):
    """A pool gives new groups with every call, of which every other one teaches."""

    def __init__(self, step: int, first: int) -> None:
        self.step, self.next = step, first

    def sample(self, groups: int) -> list[Group]:
        seeds = range(self.next, self.next + groups)
        self.next = seeds.stop
        return [samples.group(seed, self.step, GROUP) for seed in seeds]

    def teaches(self, groups: Sequence[Group]) -> list[bool]:
        return [group.seed % 2 == 0 for group in groups]


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Give this process other random numbers for a while, as another process has them."""
    python, of_torch = random.getstate(), torch.get_rng_state()
    try:
        random.seed(seed)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(of_torch)


# --- task samplers ----------------------------------------------------------------------------------------------------


def _drawing(named: Named, world: Environment) -> CheckedTaskSamplerSession:
    return CheckedTaskSampler(named).start(FIRST, world, SEED)


def _step(session: CheckedTaskSamplerSession, step: int) -> list[int]:
    """Draw the seeds of a step of two rounds, from each of which the sampler learns."""
    session.begin_step(step)
    seeds = []
    for count in (COUNT, 1):
        drawn = session.draw(count)
        session.learn([samples.group(seed, step, GROUP) for seed in drawn])
        seeds += drawn
    return seeds


def _draws(named: Named) -> None:
    """A task sampler draws as many seeds as are asked for, none twice in a step, however many tasks there are."""
    for world in WORLDS:
        session = _drawing(named, world)
        for step in range(STEPS):
            _step(session, step)


def _draws_alike(named: Named) -> None:
    """A task sampler draws the same in every process with the same episodes."""
    for world in WORLDS:
        runs = []
        for process in (1, 2):
            with own_random(process):
                session = _drawing(named, world)
                runs.append([_step(session, step) for step in range(STEPS)])
        what = "draws other tasks in another process: use a generator made from the seed that start is given"
        require(named, "draw", runs[0] == runs[1], what)


def _keeps_runs_apart_and_resumes(named: Named) -> None:
    """A task sampler that goes on from its state draws as one that was never interrupted."""
    for world in WORLDS:
        whole, started = _drawing(named, world), _drawing(named, world)
        _apart(named, whole.session, started.session)
        expected = [_step(whole, step) for step in range(STEPS)]
        for step in range(STEPS):
            resumed = _drawing(named, world)
            resumed.load_state_dict(_saved(started))
            drawn = _step(started, step)
            require(named, "start", drawn == expected[step], "draws otherwise beside another run: they share something")
            same = _step(resumed, step) == expected[step]
            require(named, "load_state_dict", same, f"draws other tasks in step {step} after a resume")


def _foresees_what_it_draws(named: Named) -> None:
    """A task sampler draws what it has foreseen."""
    foreseen = CheckedTaskSampler(named).foreseen(FIRST, STEPS * (COUNT + 1))
    if foreseen is None:
        return
    for world in WORLDS:
        session = _drawing(named, world)
        drawn = [seed for step in range(STEPS) for seed in _step(session, step)]
        require(named, "foreseen", sorted(drawn) == sorted(foreseen), "does not give the seeds that draw gives later")


# --- batch samplers ---------------------------------------------------------------------------------------------------


def _collecting(named: Named) -> CheckedBatchSamplerSession:
    return CheckedBatchSampler(named).start(COUNT, GROUP)


def _collect(session: CheckedBatchSamplerSession, step: int) -> list[Group]:
    groups = session.collect(Pool(step, 100 * (step + 1)), step)
    session.metrics()
    return groups


def _collects(named: Named) -> None:
    """A batch sampler gives groups of its pool with distinct seeds in every step, and finite numbers as metrics."""
    session = _collecting(named)
    for step in range(STEPS):
        _collect(session, step)


def _collects_alike(named: Named) -> None:
    """A batch sampler collects the same in every process with the same episodes."""
    runs = []
    for process in (1, 2):
        with own_random(process):
            session = _collecting(named)
            runs.append([_collect(session, step) for step in range(STEPS)])
    what = "collects other groups in another process: use a generator made from a seed of its own"
    require(named, "collect", runs[0] == runs[1], what)


def _collects_after_a_resume(named: Named) -> None:
    """A batch sampler that goes on from its state collects as one that was never interrupted."""
    whole, started = _collecting(named), _collecting(named)
    _apart(named, whole.session, started.session)
    expected = [_collect(whole, step) for step in range(STEPS)]
    for step in range(STEPS):
        resumed = _collecting(named)
        resumed.load_state_dict(_saved(started))
        same = _collect(started, step) == expected[step]
        require(named, "start", same, "collects otherwise beside another run: they share something")
        same = _collect(resumed, step) == expected[step]
        require(named, "load_state_dict", same, f"collects other groups in step {step} after a resume")


def _draws_what_it_says(named: Named) -> None:
    """A batch sampler samples as many groups in a step as ``draws`` says."""
    stated = CheckedBatchSampler(named).draws(COUNT)
    session = _collecting(named)
    for step in range(STEPS if stated is not None else 0):
        pool = Pool(step, 0)
        session.collect(pool, step)
        require(named, "draws", pool.next == stated, f"gave {stated}, and a step samples {pool.next} groups")


def _apart(named: Named, first: Any, second: Any) -> None:
    require(named, "start", first is not second, "gave the same session twice: each run has one of its own")


def _saved(session: Any) -> Any:
    """Return the state as a checkpoint gives it back."""
    return json.loads(to_json(session.state_dict()))


LAWS = {
    "task_sampler": laws(_draws, _draws_alike, _keeps_runs_apart_and_resumes, _foresees_what_it_draws),
    "batch_sampler": laws(_collects, _collects_alike, _collects_after_a_resume, _draws_what_it_says),
}
