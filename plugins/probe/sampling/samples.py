"""The batches of the probe: prompts drawn at random, responses sampled from the policy, both from named streams."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import RolloutEngineSession, Rollouts, Sampling
from ....core.errors import RequestError
from ...rollout.episode import Episode
from ...rollout.rows import build, in_order, raw_rewards
from ...training.processes.ranks import Ranks
from ...training.step.rewards import normalize
from ...training.step.stages import derived_seed
from .sources import Source

CHUNK = 128
"""Conversations that are sampled together, on one rank."""


def stream(master_seed: int, *names: object) -> int:
    """The seed of the random stream of this name, independent of those of all other names."""
    return derived_seed(master_seed, *names)


@attrs.frozen(eq=False)
class Sample:
    """Units (drawn prompts) with their episodes; the unit is the group of its episodes.

    Tokens count up to and including the end-of-turn token that was sampled, as the engine returned them.
    """

    episodes: list[Episode]
    """By unit and member."""
    rollouts: Rollouts
    """The episodes' rows; ``groups_of_episodes()`` is the unit, 0..P-1, of each episode."""
    tasks: tuple[int, ...]
    """[P] what was drawn for each unit: a row of the data set or an environment seed."""
    seconds: float
    """What it took to get the sample: to draw it, or to read it from its file."""

    @classmethod
    def of(cls, episodes: list[Episode], tasks: Sequence[int], source: Source, started: float) -> Sample:
        """The sample of these episodes (in order), begun at ``time.perf_counter() == started``."""
        raw_E, groups_E = raw_rewards(episodes)
        shaped_E = raw_E if source.shaping is None else source.shaping(episodes)
        rewards_E = normalize(shaped_E, groups_E, source.reward.normalization, source.reward.over)
        rollouts = build(episodes, source.rollout, source.reward, rewards_E, shaped_E)
        return cls(episodes, rollouts, tuple(tasks), time.perf_counter() - started)

    @property
    def lengths(self) -> Tensor:
        """[E] int64: sampled tokens of each episode."""
        return torch.tensor([sum(len(turn.tokens) for turn in episode.turns) for episode in self.episodes])

    @property
    def mean_length(self) -> float:
        """Sampled tokens per episode."""
        return float(self.lengths.double().mean())

    @property
    def rewards(self) -> Tensor:
        """[E] float32: raw rewards, format penalties included."""
        return self.rollouts.raw_rewards_E

    @property
    def mean_reward(self) -> float:
        return float(self.rewards.double().mean())


def draw(
    source: Source,
    engine: RolloutEngineSession,
    tokenizer: Any,
    *,
    prompts: int,
    responses: int,
    with_replacement: bool,
    seed: int,
    temperature: float,
    max_tokens: int,
    ranks: Ranks,
    chunk: int = CHUNK,
) -> Sample:
    """A sample of ``responses`` episodes for each of ``prompts`` drawn prompts: the same for any number of ranks.

    With replacement the prompts are independent and uniform, and each draw is a unit of its own even if its prompt was
    drawn before; without it no task is drawn twice. The units are cut into chunks of about ``chunk`` conversations,
    whatever the number of ranks; each rank plays its share of the chunks, and a chunk has a random stream of its own.

    Args:
        max_tokens: of one turn.

    Raises:
        RequestError: there are fewer prompts than are to be drawn without replacement, or none.
    """
    started = time.perf_counter()
    tasks = _choose(source.tasks(tokenizer), prompts, with_replacement, stream(seed, "prompts"))
    sampling = Sampling(temperature, max_tokens)
    size = max(1, chunk // responses)
    played: list[Episode] = []
    for start in range(0, prompts, size)[ranks.rank :: ranks.size]:
        units = {unit: tasks[unit] for unit in range(start, min(start + size, prompts))}
        played += source.play(units, responses, engine, tokenizer, sampling, stream(seed, "sampling", start))
    episodes = in_order(episode for own in ranks.gather(played) for episode in own)
    return Sample.of(episodes, tasks, source, started)


def _choose(tasks: Sequence[int], count: int, with_replacement: bool, seed: int) -> list[int]:
    if not tasks:
        raise RequestError("there are no prompts to draw from", "the source of prompts", "give a source that has some")
    rng = random.Random(seed)
    if with_replacement:
        return rng.choices(tasks, k=count)
    if count > len(tasks):
        raise RequestError(
            f"{count} distinct prompts are to be drawn, but there are only {len(tasks)}",
            "the source of prompts",
            "ask for fewer prompts, or give a source that has more",
        )
    return rng.sample(tasks, count)
