"""Games of TextArena are made and started, each with random numbers of its own."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import platform
import random
import sys
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .....core.errors import RequestError
from ...common import seeded

_OTHER = "choose another game or other settings"


def where(game: str) -> str:
    """Return the place for messages."""
    return f"environment: textarena, game {game}"


@contextlib.contextmanager
def own_random(rng: random.Random) -> Iterator[None]:
    """Give the games, which draw from the random numbers that all modules share, those of ``rng``, which moves on.

    Only one thread at a time gets in. What games print for people is left out.
    """
    import numpy

    with _LOCK:
        others, others_of_numpy = random.getstate(), numpy.random.get_state()
        numpy.random.seed(rng.getrandbits(32))
        random.setstate(rng.getstate())
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        finally:
            rng.setstate(random.getstate())
            random.setstate(others)
            numpy.random.set_state(others_of_numpy)


@lru_cache(maxsize=64)
def opened(game: str, settings: str, players: int, seed: int) -> Any:
    """Return the game of a seed at its start, to be copied: all members of a group share it.

    Raises:
        RequestError: the package cannot make the game.
        Exception: what the game raises on this number of players.
    """
    made, draws = _made(game, settings)
    with own_random(seeded("textarena", game, seed)):
        started = _make(game, settings) if draws else copy.deepcopy(made)
        started.reset(num_players=players, seed=seed)
    return started


@lru_cache(maxsize=64)
def _made(game: str, settings: str) -> tuple[Any, bool]:
    """Make a game, once: some read word lists. Say as well whether it draws its task already when it is made."""
    import numpy

    with own_random(random.Random(0)):
        before = random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr, index]
        made = _make(game, settings)
        return made, before != (random.getstate(), numpy.random.get_state()[1].tolist())  # type: ignore[union-attr, index]


def _make(game: str, settings: str) -> Any:
    """Make a game. Raises RequestError if the package cannot."""
    import textarena

    try:
        with _silence():
            return textarena.make(f"{game}-raw", **json.loads(settings))
    except Exception as error:
        raise RequestError(*reason(game, error)) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the process from writing errors to its terminal: nltk has remembered the stream that it found first."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def reason(game: str, error: Exception) -> tuple[str, str, str]:
    """Return what is wrong with a game that cannot be made or started, where, and how to mend it."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, LookupError) and "nltk" in str(error).lower():
        what, fix = (
            "the game needs word lists of nltk",
            "python -m nltk.downloader words averaged_perceptron_tagger_eng",
        )
    elif "openrouter" in str(error).lower():
        what = "the game asks a language model of the service OpenRouter, and OPENROUTER_API_KEY is not set"
        fix = "choose another game"
    elif isinstance(error, SyntaxError) and sys.version_info < (3, 12):
        what = f"the game needs Python 3.12, and this is {platform.python_version()}: {said}"
        fix = "use a later Python, or choose another game"
    elif isinstance(error, FileNotFoundError | ImportError):
        what, fix = f"this release of textarena lacks files of the game: {said}", "choose another game"
    else:
        what, fix = f"textarena cannot make the game: {said}", _OTHER
    return what, where(game), fix


@lru_cache(maxsize=256)
def players_of(game: str, settings: str) -> int:
    """Return the number of players, 1 or 2. Raises RequestError for a game of more, or one that does not start."""
    for players in (1, 2):
        try:
            state = opened(game, settings, players, 0).state
        except RequestError:
            raise
        except Exception as error:  # a game may raise anything on a number of players that it is not for
            refused = error
        else:
            if players == 2 or type(state).__name__ == "SinglePlayerState":
                return players
    if "player" in str(refused).lower() and isinstance(refused, AssertionError | ValueError):
        what = f"the game is neither for one player nor for two: {type(refused).__name__}: {refused}".removesuffix(".")
        raise RequestError(what, where(game), "choose a game of one or two players") from refused
    raise RequestError(*reason(game, refused)) from refused


@lru_cache(maxsize=64)
def _formats(game: str) -> bool:
    from textarena.envs.registration import ENV_REGISTRY
    from textarena.wrappers import ActionFormattingWrapper

    return ActionFormattingWrapper in (ENV_REGISTRY[game].default_wrappers or ())


def formatted(game: str, text: str) -> str:
    """Put a text in square brackets if it has none, where the package does so for the game."""
    return text if not _formats(game) or "[" in text or "]" in text else f"[{text}]"


_LOCK = threading.RLock()
