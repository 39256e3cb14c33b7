"""Episodes of TextArena's games, against an opponent if there are two players."""

from __future__ import annotations

import copy
import random
from functools import lru_cache
from numbers import Real
from typing import Any

import attrs

from .....core.components import Env, Step
from .....core.errors import RequestError, RunError
from ...common import Split, draw_task, refuse_after_end, seeded
from ...metrics import ACCEPTED
from .games import formatted, opened, own_random, where
from .opponents import FrozenModel

_SEEDS = 64
"""Number of seeds that are tried in search of two tasks."""
_OWN_TURNS = 1000
"""Largest number of turns that the opponent takes at a stretch."""


@attrs.frozen
class Table:
    """A table is a game with its settings and its players."""

    game: str
    """Name that TextArena knows the game by."""
    settings: str
    """Arguments of the game, as JSON."""
    replies: tuple[str, ...]
    """Texts of a random opponent; empty without one."""
    model: FrozenModel | None
    """Model that plays the opponent, if one does."""
    player: int
    """Number of the player that the policy is."""

    @property
    def players(self) -> int:
        """Number of players."""
        return 2 if self.replies or self.model else 1

    def start(self, seed: int, member: int) -> TextArenaEnv:
        """Start the game of a seed. Members see the same first observation; chances afterwards are their own."""
        game = copy.deepcopy(opened(self.game, self.settings, self.players, seed))
        opening, later = seeded("textarena opening", seed), seeded("textarena member", seed, member)
        env = TextArenaEnv(self, game, opening)
        env.first = env.others_play()
        env.rng = later
        return env

    def start_in(self, split: Split, seed: int, member: int) -> TextArenaEnv:
        """Start the game of a seed, or of the first further seed whose first observation belongs to a split."""
        rng, seeds = seeded("textarena split", self.game, seed), iter((seed,))

        def draw() -> TextArenaEnv:
            return self.start(next(seeds, rng.randrange(2**32)), member)

        fix = "use split all, and other seeds for validation"
        return draw_task(draw, lambda env: env.first, split, where(self.game), fix)


@attrs.define
class TextArenaEnv(Env):
    """An episode of a game of TextArena."""

    table: Table
    """Game with its players."""
    game: Any
    """State of the game."""
    rng: random.Random
    """Random numbers of the game and of the opponent."""
    first: str = ""
    """Text of the first observation."""
    done: bool = False
    """Whether the game is over."""
    talk: tuple[tuple[str, str], ...] = ()
    """What a model that plays the opponent was told at each of its turns, and its move."""

    @property
    def key(self) -> str:
        """First observation: equal for tasks that look alike at the start."""
        return self.first

    def initial_observation(self) -> str:
        return self.first

    def step(self, action: str) -> Step:
        """Play a text, and then the opponent's replies. Raises RunError after the end."""
        refuse_after_end(self.done)
        if not self._play(action):
            return Step("The game cannot read this text.", 0.0, metrics={ACCEPTED: 0.0})
        state = self.game.state
        metrics = {ACCEPTED: float(not _is_invalid(state, self.table.player))}
        text = self.others_play()
        if not state.done:
            return Step(text, 0.0, metrics=metrics)
        self.done = True
        reward, reason = result(self.game, self.table.player)
        shown = "\n".join(filter(None, (text, reason))) or "The game is over."
        return Step(shown, reward, done=True, success=reward >= 1, metrics=metrics)

    def others_play(self) -> str:
        """Let the opponent play until it is the policy's turn, and return what the policy has been told since."""
        turns = 0
        while not self.game.state.done and self.game.state.current_player_id != self.table.player:
            turns += 1
            # a text on which the game fails is no move at all, as an empty one
            if turns > _OWN_TURNS or not (self._play(self._reply()) or self._play("")):
                fix = "give it other texts, or another model"
                raise RunError("the opponent cannot play", where(self.table.game), fix)
        return self._told(self.table.player)

    def _told(self, player: int) -> str:
        """Return what a player has been told since it was last asked for."""
        state = self.game.state
        told, state.observations[player] = state.observations[player], []
        return "\n".join(str(message).strip() for speaker, message, _ in told if speaker != player)

    def _reply(self) -> str:
        """Return the opponent's text."""
        if self.table.model is None:
            return self._chance()
        told = self._told(1 - self.table.player) or "It is your turn."
        reply = self.table.model.reply(self.table.game, self.talk, told)
        self.talk = (*self.talk, (told, reply))
        return reply

    def _chance(self) -> str:
        """Choose a text that the game accepts; any, if it accepts none, which loses the game."""
        replies = self.rng.sample(self.table.replies, len(self.table.replies))
        for reply in replies:
            trial = copy.deepcopy(self)
            if trial._play(reply) and not _is_invalid(trial.game.state, 1 - self.table.player):
                return reply
        return replies[0]

    def _play(self, text: str) -> bool:
        """Play a text; return False, with the game as it was, if the game fails on it."""
        before = copy.deepcopy(self.game), self.rng.getstate()
        try:
            with own_random(self.rng):
                self.game.step(formatted(self.table.game, text))
        except Exception:  # games raise anything on texts that they do not expect
            self.game = before[0]
            self.rng.setstate(before[1])
            return False
        return True


def result(game: Any, player: int) -> tuple[float, str]:
    """Return the reward of a player at the end of a game, and the reason that the game gives."""
    rewards, info = game.close()
    reward, reason = (rewards or {}).get(player, 0.0), str(info[player].get("reason") or "")
    if isinstance(reward, str):
        # three games of 0.7.4 give reward and reason of a refused move in the wrong order
        number = reason.rpartition(" ")[2]
        return (float(number) if number.replace(".", "", 1).isdigit() else 0.0), reward
    return (float(reward) if isinstance(reward, Real) else 0.0), reason


def _is_invalid(state: Any, player: int) -> bool:
    """Say whether the game has refused the last text of a player."""
    return bool(getattr(state, "error_count", 0) or state.game_info[player]["invalid_move"])


@lru_cache(maxsize=64)
def refuse_unsplit(table: Table, split: Split) -> None:
    """Raise RequestError for a split of a game whose seeds all start alike."""
    if split == "all":
        return
    # a model that plays first says the same to games that start alike
    silent = attrs.evolve(table, model=None, player=0, replies=table.replies or ("",))
    table = silent if table.model else table
    first = table.start(0, 0).first
    if all(table.start(seed, 0).first == first for seed in range(1, _SEEDS)):
        fix = "use split all: training and validation have the same start and different seeds"
        raise RequestError(f"all seeds start alike, so there is no split {split}", where(table.game), fix)
