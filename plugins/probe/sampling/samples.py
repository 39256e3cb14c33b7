"""For the batches of the probe, prompts are drawn and responses sampled from the policy, from named random streams."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import RolloutEngineSession, Rollouts, Sampling
from ....core.errors import RequestError
from ...rollout.episode import Episode
from ...rollout.named_rewards import with_names
from ...rollout.rows import build, in_order, raw_rewards
from ...training.processes.ranks import Ranks
from ...training.step.rewards import normalize
from ...training.step.stages import derived_seed
from .sources import Source

CHUNK = 128
"""Number of conversations that are sampled together, on one rank."""


def stream(master_seed: int, *names: object) -> int:
    """Return the seed of the random stream of this name, independent of those of all other names."""
    return derived_seed(master_seed, *names)


@attrs.frozen(eq=False)
class Sample:
    """A sample has units (drawn prompts) with their episodes; the unit is the group of its episodes.

    Tokens count up to and including the end-of-turn token that was sampled, as the engine returned them.
    """

    episodes: list[Episode]
    """Episodes in the order of units and members."""
    rollouts: Rollouts
    """Rows of the episodes; ``groups_of_episodes()`` is the unit, 0..P-1, of each episode."""
    tasks: tuple[int, ...]
    """Task that was drawn for each unit ([P]): a row of the data set or an environment seed."""
    seconds: float
    """Seconds that it took to draw the sample, or to read it from its file."""

    @classmethod
    def of(cls, episodes: list[Episode], tasks: Sequence[int], source: Source, started: float) -> Sample:
        """Make the sample of these episodes (in order), begun at ``time.perf_counter() == started``."""
        raw_E, groups_E = raw_rewards(episodes)
        shaped_E = raw_E if source.shaping is None else source.shaping(episodes)
        rewards_E = normalize(shaped_E, groups_E, source.reward.normalization, source.reward.over)
        rollouts = build(episodes, source.rollout, source.reward, rewards_E, shaped_E)
        weights, penalty = source.reward_weights, source.rollout.format_penalty
        rollouts = with_names(rollouts, in_order(episodes), source.reward_names, weights, penalty)
        return cls(episodes, rollouts, tuple(tasks), time.perf_counter() - started)

    @property
    def lengths(self) -> Tensor:
        """Number of sampled tokens of each episode: [E] int64."""
        lengths = []
        for episode in self.episodes:
            lengths.append(sum(len(turn.tokens) for turn in episode.turns))
        return torch.tensor(lengths)

    @property
    def mean_length(self) -> float:
        """Mean number of sampled tokens of an episode."""
        return float(self.lengths.double().mean())

    @property
    def rewards(self) -> Tensor:
        """Raw rewards, format penalties included: [E] float32."""
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
    """Draw a sample of ``responses`` episodes for each of ``prompts`` prompts: the same for any number of ranks.

    With replacement the prompts are independent and uniform, and each draw is a unit of its own even if its prompt was
    drawn before; without it no task is drawn twice. The units are cut into chunks of about ``chunk`` conversations,
    whatever the number of ranks; each rank plays its share of the chunks, and a chunk has a random stream of its own.

    Args:
        max_tokens: largest number of tokens of one turn.

    Raises:
        RequestError: there are fewer prompts than are to be drawn without replacement, or none.
    """
    started = time.perf_counter()
    tasks = _choose(source.tasks(tokenizer), prompts, with_replacement, stream(seed, "prompts"))
    sampling = Sampling(temperature, max_tokens)
    size = max(1, chunk // responses)
    played: list[Episode] = []
    # chunks, not ranks, have random streams: so the number of ranks changes nothing
    for start in range(0, prompts, size)[ranks.rank :: ranks.size]:
        units = {unit: tasks[unit] for unit in range(start, min(start + size, prompts))}
        played += source.play(units, responses, engine, tokenizer, sampling, stream(seed, "sampling", start))
    episodes = in_order(chain.from_iterable(ranks.gather(played)))
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
