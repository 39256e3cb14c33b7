"""How many rows a step, a mini-batch and a micro-batch have: sizes that cannot go together."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .experiment import Experiment
from .problems import Problem

EPISODES = 1 << 18
"""Of one step, at most: with a few KiB each they fit any machine, and real steps have a tenth of them."""


def batch_problems(experiment: Experiment) -> Iterator[Problem]:
    """Yield the sizes of batches that do not fit each other, or no machine."""
    rollout, trainer = experiment.rollout, experiment.trainer
    mini, micro, budget = trainer.mini_batch, trainer.micro_batch, trainer.token_budget
    if 0 < budget < rollout.max_context:
        reason = f"cannot hold a row of rollout.max_context = {rollout.max_context} tokens"
        yield Problem(reason, "trainer.token_budget", budget, f"0, or at least {rollout.max_context}")
    if mini % micro and not budget:
        yield not_multiple("trainer.mini_batch", mini, micro, "trainer.micro_batch")
    yield from _episodes(experiment)
    episodes = rollout.groups * rollout.group_size
    full = rollout.context_window == "full"
    rows = episodes if full else episodes * rollout.max_turns
    if mini > rows:
        counted = "rollout.groups * rollout.group_size" + ("" if full else " * rollout.max_turns")
        yield Problem(
            f"is more than the {rows} rows of a step ({counted})", "trainer.mini_batch", mini, f"at most {rows}"
        )
    elif full and rows % mini:
        near = min(_divisors(rows), key=lambda size: (abs(size - mini), size))
        yield Problem(
            f"does not divide the {rows} rows of a step (rollout.groups * rollout.group_size)",
            "trainer.mini_batch",
            mini,
            f"the nearest that does is {near}",
        )


def _episodes(experiment: Experiment) -> Iterator[Problem]:
    """All episodes of a step are held at once."""
    for name, section in (("rollout", experiment.rollout), ("validation", experiment.validation)):
        if (episodes := section.groups * section.group_size) > EPISODES:
            reason = f"times {name}.group_size = {section.group_size} is {episodes} episodes, which are held at once"
            yield Problem(reason, f"{name}.groups", section.groups, f"at most {EPISODES} episodes are")


def _divisors(number: int) -> list[int]:
    low = [size for size in range(1, math.isqrt(number) + 1) if number % size == 0]
    return [*low, *(number // size for size in low)]


def not_multiple(key: str, value: int, of: int, meaning: str) -> Problem:
    """Say that a size must be a multiple of another, and which are near."""
    below, above = value - value % of, value + -value % of
    fix = f"the nearest are {below} and {above}" if below else f"the nearest is {above}"
    return Problem(f"must be a multiple of {of}, {meaning}", key, value, fix)
