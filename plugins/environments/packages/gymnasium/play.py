"""Environments of Gymnasium are made, seeded and played as episodes in text."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import attrs

from .....core.components import Env, Step
from .....core.errors import MissingExtraError, RequestError, nearest
from ...common import Split, action_named, draw_task, refuse_after_end, seeded
from ...metrics import ACCEPTED
from .game import Game

_SEEDS = 64
"""Number of seeds that are tried in search of two tasks."""


@attrs.frozen
class Maker:
    """A maker makes environments of one id, with the same settings."""

    id: str
    """Name that Gymnasium knows the environment by."""
    settings: str
    """Arguments of the environment, as JSON."""
    max_steps: int | None
    """Number of steps after which an episode is truncated; ``None`` for the number that belongs to the id."""
    game: Game
    """How the environment is played in text."""

    @property
    def where(self) -> str:
        """Place for messages."""
        return f"environment: id {self.id}"

    def new(self) -> Any:
        """Make an environment. Raises RequestError with Gymnasium's reason if it does not take the settings."""
        import gymnasium
        import numpy

        limit = {} if self.max_steps is None else {"max_episode_steps": self.max_steps}
        try:
            # a map without a start has probabilities that are no numbers
            with numpy.errstate(invalid="raise"), quiet():
                return gymnasium.make(self.id, disable_env_checker=True, **limit, **json.loads(self.settings))
        except Exception as error:  # an environment may raise anything on arguments that it does not expect
            raise RequestError(*self._reason(error)) from error

    def _reason(self, error: Exception) -> tuple[str, str, str]:
        """Return what is wrong with an environment that cannot be made, where, and how to mend it."""
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, ImportError) or type(error).__name__ == "DependencyNotInstalled":
            return f"the environment needs a package: {said}", self.where, "install it, or choose another id"
        if self.settings == "{}":
            return f"the environment cannot be made: {said}", self.where, "give it settings, or choose another id"
        return f"gymnasium refuses the settings: {said}", self.where, "give it settings that it knows"

    def play(self, seed: int, member: int, split: Split) -> GymEnv:
        """Make an episode that starts as ``reset(seed=seed)`` does, or as the first other seed of the split does."""
        env, rng = self.new(), seeded("gymnasium", self.id, seed)
        seeds = itertools.chain([seed], iter(lambda: rng.randrange(2**32), None))

        def draw() -> Any:
            return started(env, next(seeds))

        fix = "use split all, and other seeds for validation"
        try:
            observed = draw_task(draw, lambda drawn: self.game.key(env, drawn), split, self.where, fix)
        except BaseException:
            env.close()
            raise
        key = self.game.key(env, observed)
        # members start alike, and what happens by chance afterwards is their own
        env.unwrapped.np_random = _generator(self.id, seed, member)
        return GymEnv(env, self.game, names_of(self), self.game.show(env, observed), key)


@attrs.define(slots=False)
class GymEnv(Env):
    """An episode in an environment of Gymnasium."""

    env: Any
    """Environment, which has been reset."""
    game: Game
    """How it is played in text."""
    names: tuple[str, ...] | None
    """Names of the actions; ``None`` for texts."""
    first: str
    """Text of the first observation."""
    key: str
    """Task as text: equal for equal tasks only."""
    done: bool = False
    """Whether the episode is over."""
    closed: bool = False
    """Whether the environment has been closed."""

    def initial_observation(self) -> str:
        return self.first

    def step(self, action: str) -> Step:
        """Take an action. Raises ValueError on a text that is none of its names, RunError after the end."""
        refuse_after_end(self.done)
        space: Any = self.env.action_space
        taken: Any = action
        if self.names is not None:
            taken = int(space.start) + self.names.index(action_named(action, self.names))
        elif not space.contains(action):
            return Step(
                "This text cannot be played: it is too long, or has other characters.", 0.0, metrics={ACCEPTED: 0.0}
            )
        with quiet():
            observed, reward, terminated, truncated, _ = self.env.step(taken)
        self.done = bool(terminated or truncated)
        text, won = self.game.show(self.env, observed), bool(terminated) and self.game.won(self.env, float(reward))
        if truncated and not terminated:
            text += "\nThe time is up."
        if self.done:
            self.close()
        return Step(text, float(reward), done=self.done, success=won, metrics={ACCEPTED: 1.0})

    def close(self) -> None:
        """Close the environment, once."""
        if not self.closed:
            self.closed = True
            self.env.close()

    def __del__(self) -> None:
        # an episode that runs out of turns is not told so
        self.close()


def started(env: Any, seed: int) -> Any:
    """Reset an environment, and return its first observation."""
    with quiet():
        return env.reset(seed=seed)[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Leave out what environments print for people, and warnings that an id is old or a value of another type."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@lru_cache(maxsize=256)
def names_of(maker: Maker) -> tuple[str, ...] | None:
    """Return the names of the actions; ``None`` for texts. Raises RequestError if the actions are something else."""
    from gymnasium import spaces

    env = maker.new()
    space, names = env.action_space, maker.game.names_in(env)
    env.close()
    if isinstance(space, spaces.Text) and not names:
        return None
    if not isinstance(space, spaces.Discrete):
        fix = "choose an environment with Discrete or Text actions"
        raise RequestError(f"the actions are neither a list nor a text: {space}", maker.where, fix)
    if names and len(names) != space.n:
        raise RequestError(f"there are {space.n} actions, and {len(names)} names", maker.where, "name each action")
    if not names:
        return tuple(str(number) for number in range(space.start, space.start + space.n))
    return names


@lru_cache(maxsize=256)
def description(maker: Maker) -> str:
    """Return the description of the task."""
    env = maker.new()
    started(env, 0)
    text = maker.game.describe(env)
    env.close()
    return text


@lru_cache(maxsize=256)
def refuse_unplayable(maker: Maker, split: Split) -> None:
    """Raise RequestError for an environment that cannot be shown, repeated or split."""
    names_of(maker)
    starts = [_start(maker, 0), _start(maker, 0)]
    if starts[0] != starts[1]:
        fix = "choose settings that leave nothing to chance but what reset(seed=) draws, such as a map"
        raise RequestError("two episodes of the same seed start differently", maker.where, fix)
    if split != "all" and all(_start(maker, seed) == starts[0] for seed in range(1, _SEEDS)):
        fix = "use split all: training and validation have the same start and different seeds"
        raise RequestError(f"all seeds start alike, so there is no split {split}", maker.where, fix)


def _start(maker: Maker, seed: int) -> str:
    env = maker.new()
    try:
        try:
            observed = started(env, seed)
        except Exception as error:  # an environment may raise anything on settings that it cannot start with
            what = f"the environment does not start: {type(error).__name__}: {error}"
            raise RequestError(what, maker.where, "give it other settings, or install what it asks for") from error
        return f"{maker.game.key(env, observed)}\n{maker.game.show(env, observed)}"
    except ValueError as error:
        raise RequestError(
            str(error), maker.where, "choose an environment with discrete or text observations"
        ) from error
    finally:
        env.close()


def registered(extra: str, package: str) -> tuple[str, ...]:
    """Return the ids that Gymnasium knows. Raises MissingExtraError if ``package`` of ``extra`` is not installed."""
    for name in ("gymnasium", package):
        if importlib.util.find_spec(name) is None:
            fix = f"pip install 'uncollapse[{extra}]'"
            raise MissingExtraError(f"{name} is not installed", f"environment: {extra}", fix)
    import gymnasium

    if package == "minigrid":
        import minigrid  # noqa: F401 - registers its ids
    return tuple(gymnasium.registry)


def refuse_unknown(env_id: str, known: tuple[str, ...]) -> None:
    """Raise ValueError for an id that is not registered."""
    if ":" in env_id:
        raise ValueError(f"the id {env_id!r} names a module to import; import it in a plugin, and give the id alone")
    if env_id not in known:
        near = nearest(env_id, known)
        raise ValueError(f"there is no id {env_id!r}" + (f"; {near}" if near.startswith("did") else ""))


def as_json(settings: Mapping[str, Any]) -> str:
    """Write settings as JSON. Raises ValueError for what is no plain data or belongs to another parameter."""
    for name in sorted(
        {"id", "render_mode", "max_episode_steps", "disable_env_checker", "vector_kwargs"} & set(settings)
    ):
        raise ValueError(f"settings must not have {name}: episodes are text, and their length is max_steps")
    try:
        return json.dumps(dict(settings), sort_keys=True)
    except TypeError as error:
        raise ValueError(f"settings must be plain data: {error}") from error


def _generator(env_id: str, seed: int, member: int) -> Any:
    import numpy

    return numpy.random.default_rng(seeded("gymnasium member", env_id, seed, member).getrandbits(64))
