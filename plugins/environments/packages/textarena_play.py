"""Games of TextArena are made, seeded, and played against an opponent that chooses among texts at random."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import attrs

from ....core.components import Env, Step
from ....core.errors import RequestError, RunError
from ..common import Split, draw_task, refuse_after_end, seeded
from ..metrics import ACCEPTED

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
    """Texts that the opponent plays; empty for a game of one player."""
    player: int
    """Number of the player that the policy is."""

    @property
    def where(self) -> str:
        """Place for messages."""
        return f"environment: textarena, game {self.game}"

    def start(self, seed: int, member: int) -> TextArenaEnv:
        """Start the game of a seed. Members see the same first observation; chances afterwards are their own."""
        with own_random(seeded("textarena", self.game, seed).getstate()):
            game = copy.deepcopy(prototype(self.game, self.settings))
            game.reset(num_players=2 if self.replies else 1, seed=seed)
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
        return draw_task(draw, lambda env: env.first, split, self.where, fix)


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
        accepted = not _is_invalid(state, self.table.player)
        text = self.others_play()
        if not state.done:
            return Step(text, 0.0, metrics={ACCEPTED: float(accepted)})
        self.done = True
        rewards, info = self.game.close()
        reward = float((rewards or {}).get(self.table.player, 0.0))
        reason = str(info[self.table.player].get("reason") or "")
        shown = "\n".join(filter(None, (text, reason))) or "The game is over."
        return Step(shown, reward, done=True, success=reward >= 1, metrics={ACCEPTED: float(accepted)})

    def others_play(self) -> str:
        """Let the opponent play until it is the policy's turn, and return what the policy has been told since."""
        turns = 0
        while not self.game.state.done and self.game.state.current_player_id != self.table.player:
            turns += 1
            if turns > _OWN_TURNS or not self._play(self._reply()):
                fix = f"give the opponent texts that the game takes, not {', '.join(self.table.replies)}"
                raise RunError("the opponent cannot play", self.table.where, fix)
        state = self.game.state
        told, state.observations[self.table.player] = state.observations[self.table.player], []
        return "\n".join(str(message).strip() for speaker, message, _ in told if speaker != self.table.player)

    def _reply(self) -> str:
        """Choose a text that the game accepts; any, if it accepts none, which loses the game."""
        replies = self.rng.sample(self.table.replies, len(self.table.replies))
        for reply in replies:
            trial = copy.deepcopy(self)
            if trial._play(reply) and not _is_invalid(trial.game.state, 1 - self.table.player):
                return reply
        return replies[0]

    def _play(self, text: str) -> bool:
        """Play a text; return False, with the game as it was, if the game fails on it."""
        before = copy.deepcopy(self.game)
        with own_random(self.rng.getstate()) as after:
            try:
                self.game.step(formatted(self.table.game, text))
            except Exception:  # games raise anything on texts that they do not expect
                self.game = before
                return False
        self.rng.setstate(after[0])
        return True


def _is_invalid(state: Any, player: int) -> bool:
    """Say whether the game has refused the last text of a player."""
    return bool(getattr(state, "error_count", 0) or state.game_info[player]["invalid_move"])


@contextlib.contextmanager
def own_random(state: Any) -> Iterator[list[Any]]:
    """Give the games, which draw from the random numbers of all modules, those of one episode; then what is left."""
    others = random.getstate()
    after: list[Any] = []
    random.setstate(state)
    try:
        # games print hints for people
        with contextlib.redirect_stdout(io.StringIO()):
            yield after
    finally:
        after.append(random.getstate())
        random.setstate(others)


@lru_cache(maxsize=64)
def prototype(game: str, settings: str) -> Any:
    """Make a game, once: some read word lists. Raises RequestError if the package cannot make it."""
    import textarena

    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            return textarena.make(f"{game}-raw", **json.loads(settings))
    except Exception as error:
        raise RequestError(*_reason(game, error)) from error


def _reason(game: str, error: Exception) -> tuple[str, str, str]:
    where = f"environment: textarena, game {game}"
    if isinstance(error, LookupError) and "nltk" in str(error).lower():
        return (
            "the game needs word lists of nltk",
            where,
            "python -m nltk.downloader words averaged_perceptron_tagger_eng",
        )
    return (
        f"textarena cannot make the game: {type(error).__name__}: {error}",
        where,
        "choose another game or other settings",
    )


@lru_cache(maxsize=64)
def _formats(game: str) -> bool:
    from textarena.envs.registration import ENV_REGISTRY
    from textarena.wrappers import ActionFormattingWrapper

    return ActionFormattingWrapper in (ENV_REGISTRY[game].default_wrappers or ())


def formatted(game: str, text: str) -> str:
    """Put a text in square brackets if it has none, where the package does so for the game."""
    return text if not _formats(game) or "[" in text or "]" in text else f"[{text}]"


@lru_cache(maxsize=64)
def refuse_unplayable(table: Table, split: Split) -> None:
    """Raise RequestError for a game that has another number of players, or that cannot be split."""
    try:
        first = table.start(0, 0).first
    except (RequestError, RunError):
        raise
    except Exception as error:
        players = "two players" if table.replies else "one player"
        raise RequestError(
            f"the game does not start with {players}: {type(error).__name__}: {error}",
            table.where,
            "give the opponent's texts for a game of two players, opponent=['[0]', '[1]'], and none for one",
        ) from error
    if not table.replies and type(table.start(0, 0).game.state).__name__ != "SinglePlayerState":
        fix = "give the texts among which the opponent chooses: opponent=['[0]', '[1]']"
        raise RequestError("the game needs an opponent", table.where, fix)
    if split != "all" and all(table.start(seed, 0).first == first for seed in range(1, _SEEDS)):
        fix = "use split all: training and validation have the same start and different seeds"
        raise RequestError(f"all seeds start alike, so there is no split {split}", table.where, fix)
