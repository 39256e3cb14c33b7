"""The environment ``gymnasium`` plays the discrete environments of the package of that name in text."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs
from attrs.validators import ge, in_, optional

from .....core.components import Environment
from ...common import Split
from .game import Game, InValues
from .play import GymEnv, Maker, as_json, description, names_of, refuse_unknown, refuse_unplayable, registered
from .toys import TOYS

View = Literal["auto", "words", "values"]


@attrs.frozen
class Gymnasium(Environment):
    """Play an environment of Gymnasium with discrete or text actions: FrozenLake, CliffWalking, Taxi, Blackjack, ...

    Rewards, termination and truncation are those of the environment. A truncated episode is no success. A terminated
    one is: in FrozenLake on the goal, in CliffWalking and Taxi always, elsewhere if its last reward is above 0. The
    metric ``share_of_played_actions_accepted`` is 0 for texts that the action space does not contain.

    The members of a group start as ``reset(seed=)`` starts the group's seed. What happens by chance afterwards differs
    between them: the environment's ``np_random`` then depends on seed and member. An environment in which two episodes
    of the same seed start differently is refused.

    Source: Gymnasium (Towers et al. 2024, arXiv:2407.17032).
    """

    id: str
    """Name that Gymnasium knows the environment by, such as ``FrozenLake-v1``; a plugin may register its own."""
    view: View = attrs.field(default="auto", validator=in_(get_args(View)))
    """Form of observations: ``words``, a map or sentences, for the games named above; ``values``, those of the
    observation space; ``auto``, words where there are some."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Arguments of the environment, such as ``{is_slippery: false}``."""
    names: tuple[str, ...] = ()
    """Names of the actions 0, 1, ...; by default those of the game, or the numbers."""
    description: str = ""
    """Text that describes the task in the system message; by default that of the game."""
    max_steps: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Number of steps after which an episode is truncated; ``None`` for the number that belongs to the id."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of tasks: ``validation`` is one in five by the first observation, ``train`` the others, ``all`` both."""

    concurrency = 1

    def __attrs_post_init__(self) -> None:
        known = registered("gymnasium", "gymnasium")
        if self.id.startswith(("MiniGrid-", "BabyAI-")):
            raise ValueError(f"{self.id} is played by the environment minigrid: minigrid({self.id})")
        refuse_unknown(self.id, known)
        if self.view == "words" and self._toy is None:
            raise ValueError(f"view words is for {', '.join(TOYS)}; use view values for {self.id}")
        refuse_unplayable(self.maker, self.split)

    @property
    def _toy(self) -> Game | None:
        return TOYS.get(self.id.rpartition("-v")[0])

    @property
    def maker(self) -> Maker:
        """What makes the episodes."""
        toy = self._toy
        game = toy or Game()
        if toy is not None and self.view == "values":
            game = InValues(toy.names, toy.least_reward, toy)
        if self.names:
            game = attrs.evolve(game, names=tuple(self.names))
        return Maker(self.id, as_json(self.settings), self.max_steps, game)

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.description or description(self.maker)

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return names_of(self.maker)

    @property
    def least_reward(self) -> float | None:  # type: ignore[override]
        return self.maker.game.least_reward

    @property
    def digest(self) -> str:
        """Version of the package."""
        return f"gymnasium {importlib.metadata.version('gymnasium')}"

    def make(self, seed: int, member: int = 0) -> GymEnv:
        """Make an episode that starts as the task of ``seed`` does, with the chances of ``member``."""
        return self.maker.play(seed, member, self.split)
