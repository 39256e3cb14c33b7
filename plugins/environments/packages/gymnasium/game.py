"""A game says how an environment of Gymnasium is played in text: names of actions, description, observations."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Game:
    """A game of which nothing is known but its spaces: observations are the values of their space."""

    names: tuple[str, ...] = ()
    """Names of the actions 0, 1, ...; empty where they are called by their numbers."""
    least_reward: float | None = None
    """Smallest sum of rewards of an episode, if it is known."""

    def names_in(self, env: Any) -> tuple[str, ...]:
        """Return the names of the actions that this environment has."""
        return self.names

    def describe(self, env: Any) -> str:
        """Describe the task to the model."""
        return f"You play {env.spec.id}. Reach the highest sum of rewards."

    def show(self, env: Any, observed: Any) -> str:
        """Write an observation. Raises ValueError for a space whose values are no text."""
        return text_of(env.observation_space, observed)

    def key(self, env: Any, observed: Any) -> str:
        """Write what is known of the task at its start: equal for equal tasks."""
        return self.show(env, observed)

    def won(self, env: Any, reward: float) -> bool:
        """Say whether an episode that has terminated with the last ``reward`` has reached its goal."""
        return reward > 0


@attrs.frozen
class InValues(Game):
    """A known game, whose observations are shown as the values of their space."""

    known: Game = attrs.field(factory=Game)
    """The game, which knows what a success is."""

    def won(self, env: Any, reward: float) -> bool:
        return self.known.won(env, reward)


MOST = 256
"""Largest number of whole numbers in an array that is shown."""


def text_of(space: Any, value: Any) -> str:
    """Write a value of a space.

    Raises:
        ValueError: the space has other values than whole numbers, texts, and tuples or dictionaries of them.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Text):
        return str(value)
    if isinstance(space, spaces.Discrete):
        return str(int(value))
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary) or _is_whole(space):
        return str(value.tolist())
    if isinstance(space, spaces.Tuple):
        return f"({', '.join([text_of(part, each) for part, each in zip(space.spaces, value, strict=True)])})"
    if isinstance(space, spaces.Dict):
        return "\n".join([f"{name}: {text_of(part, value[name])}" for name, part in space.spaces.items()])
    raise ValueError(f"the observations are no text: {space}")


def _is_whole(space: Any) -> bool:
    """Say whether a space is a small array of whole numbers."""
    import numpy
    from gymnasium import spaces

    return (
        isinstance(space, spaces.Box)
        and numpy.issubdtype(space.dtype, numpy.integer)
        and int(numpy.prod(space.shape)) <= MOST
    )
