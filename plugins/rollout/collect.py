"""Episodes are collected turn by turn, or each at its own pace where the engine takes single requests.

An engine that takes single requests gets the next turn of a conversation as soon as its environment has answered, while
others are still generating. Any other engine gets the next turns of all conversations in one call. In both cases the
environments of all conversations that wait for theirs work side by side, as far as they can (:mod:`.stepping`), and
what is sampled does not depend on which of them is done first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...core.components import Completion, Env, Environment, RolloutEngineSession, Sampling
from ...core.compose.experiment import Rollout
from ...core.errors import RunError
from .conversation import Conversation, Heard, close_episode, open_episode
from .episode import Episode
from .lost import LostGroup
from .stepping import Outcome, Pool, pool
from .template import Template


def collect(
    environment: Environment,
    rollout: Rollout,
    engine: RolloutEngineSession,
    template: Template,
    *,
    seeds: Sequence[int],
    group_size: int,
    seed: int,
    temperature: float | None = None,
    lost: list[LostGroup] | None = None,
) -> list[Episode]:
    """Play ``group_size`` episodes of each environment seed, and return them ordered by group and member.

    Args:
        environment: what makes the tasks.
        rollout: the ``rollout`` section, with the limits of an episode.
        engine: what samples.
        template: what writes prompts and reads responses.
        seeds: the environment seeds of the groups; with several ranks, those of this rank.
        group_size: the episodes of a group.
        seed: the seed of sampling, which differs from step to step.
        temperature: the sampling temperature, ``rollout.temperature`` unless given; 0 decodes greedily.
        lost: a list to which the groups are added that the environment has lost. They have no episodes in the result.

    Raises:
        RequestError: a first prompt leaves no room for a turn in ``rollout.max_context``.
        EpisodeLostError: the environment has lost an episode, and ``lost`` is not given.
    """
    sampling = Sampling(rollout.temperature if temperature is None else temperature, rollout.max_tokens)
    places = [(group, member) for group in seeds for member in range(group_size)]
    with pool(environment.concurrency, len(places)) as works:
        table = _Table(environment, rollout, template, places, works)
        try:
            if engine.single_requests:
                _play_at_own_pace(table, engine, sampling, seed)
            else:
                _play_by_turns(table, engine, sampling, seed, seeds)
        except BaseException:
            with suppress(RunError):  # what has happened is told, not what follows from it
                table.start_closing()
            raise
        table.start_closing()
        works.all_done()
    gone = table.lost_groups()
    if gone and lost is None:
        raise gone[0].error
    if lost is not None:
        lost += gone
    return table.episodes()


class _Table:
    """The conversations that are played, and the pool in which their environments work."""

    def __init__(
        self,
        environment: Environment,
        rollout: Rollout,
        template: Template,
        places: Sequence[tuple[int, int]],
        works: Pool,
    ) -> None:
        self.places, self.works = places, works
        self.conversations: dict[int, Conversation] = {}
        """The conversations that have begun, by their index in ``places``."""
        self._setting = (environment, rollout, template)
        self._heard: dict[int, Heard] = {}
        self._lost: dict[tuple[int, int], LostGroup] = {}
        self._lost_seeds: set[int] = set()
        self._open: dict[int, Env] = {}
        for index, place in enumerate(places):
            works.start(index, open_episode, environment, rollout, *place)

    def advance(self, index: int, completion: Completion) -> None:
        """Begin the rest of a turn: :meth:`take` gets what the environment has replied."""
        conversation = self.conversations[index]
        heard = self._heard[index] = conversation.hear(completion)
        self.works.start(index, conversation.play, heard)

    def take(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Take what environments have done; return the conversations of these that go on."""
        for outcome in outcomes:
            index = outcome.key
            seed, member = self.places[index]
            if outcome.lost is not None:
                self._lost[self.places[index]] = LostGroup(seed, member, outcome.lost)
                self._lost_seeds.add(seed)
            elif index in self.conversations:
                self.conversations[index].take(self._heard.pop(index), outcome.result)
            else:
                self._open[index] = outcome.result.env
                self.conversations[index] = Conversation(*self._setting, seed, member, outcome.result)
        return [outcome.key for outcome in outcomes if self.goes_on(outcome.key)]

    def start_closing(self) -> None:
        """Let all episodes release what they hold, those of lost groups as well."""
        while self._open:
            index, env = self._open.popitem()
            self.works.start(index, close_episode, *self._setting[:2], *self.places[index], env)

    def goes_on(self, index: int) -> bool:
        """Say whether a conversation has another turn; one of a lost group has none."""
        return self.places[index][0] not in self._lost_seeds and self.conversations[index].stop is None

    def lost_groups(self) -> list[LostGroup]:
        """Return the lost groups in the order of their seeds, each with its first member that was lost."""
        first = {place[0]: self._lost[place] for place in sorted(self._lost, reverse=True)}
        return [first[seed] for seed in sorted(first)]

    def episodes(self) -> list[Episode]:
        """Return the episodes of all groups that are not lost, in order."""
        return [
            self.conversations[index].episode()
            for index, (seed, _) in enumerate(self.places)
            if seed not in self._lost_seeds
        ]


def _play_by_turns(table: _Table, engine: Any, sampling: Sampling, seed: int, seeds: Sequence[int]) -> None:
    """Sample the next turns of all running conversations in one call, until none runs."""
    turn = 0
    while active := _going_on(table):
        prompts = [table.conversations[index].prompt for index in active]
        completions = engine.generate(prompts, sampling, _turn_seed(seed, turn, seeds))
        for index, completion in zip(active, completions, strict=True):
            table.advance(index, completion)
        turn += 1


def _going_on(table: _Table) -> list[int]:
    """Wait for all environments; return the conversations that go on. Their order decides which noise each gets."""
    outcomes = table.works.all_done()
    table.take(outcomes)
    return [outcome.key for outcome in outcomes if table.goes_on(outcome.key)]


def _play_at_own_pace(table: _Table, engine: Any, sampling: Sampling, seed: int) -> None:
    """Sample each conversation's next turn as soon as it can be asked for, until none runs.

    Each turn has its own seed, from the group, the member and the turn, so that the order of turns does not matter.
    """
    asked = 0
    while asked or table.works.running:
        for index in table.take(table.works.done(wait=not asked)):
            conversation = table.conversations[index]
            turn_seed = _turn_seed(seed, len(conversation.turns), (conversation.seed, conversation.member))
            engine.submit(index, conversation.prompt, sampling, turn_seed)
            asked += 1
        if asked:
            for index, completion in engine.poll():
                asked -= 1
                if table.goes_on(index):  # its group may have been lost meanwhile
                    table.advance(index, completion)


def _turn_seed(seed: int, turn: int, groups: Sequence[int]) -> int:
    """Return the seed of a turn. Groups are part of it, so that ranks do not share their noise."""
    # not hash(): every process must get the same number
    digest = hashlib.sha256(repr((seed, turn, list(groups))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
