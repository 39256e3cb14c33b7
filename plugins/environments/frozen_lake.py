"""In FrozenLake one crosses slippery ice to a goal."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Literal, get_args

import attrs
from attrs.validators import and_, ge, gt, in_, le

from ...core.components import Env, Environment, Step
from .common import Split, action_named, draw_task, refuse_after_end, seeded
from .frozen_lake_demonstrator import demonstrate
from .frozen_lake_rules import ACTIONS, Lake, slips
from .metrics import ACCEPTED, EFFECTIVE
from .views import legend, observation

View = Literal["grid", "coord", "grid_coord"]

_MEANINGS = {"P": "player", "_": "ice", "O": "hole", "G": "goal", "X": "player in a hole", "√": "player on the goal"}


@lru_cache(maxsize=8192)
def lake(size: int, frozen: float, split: Split, seed: int) -> Lake:
    """Make the lake of a seed: start and goal differ and a path joins them. Raises RunError if there is none."""
    rng = seeded("frozen_lake", size, frozen, seed)
    return draw_task(
        lambda: _draw(size, frozen, rng), lambda drawn: drawn.key, split, f"frozen_lake {size}x{size}, frozen {frozen}"
    )


def _draw(size: int, frozen: float, rng: random.Random) -> Lake | None:
    """Draw a lake; ``None`` if no path leads to its goal."""
    start, goal = rng.sample(range(size**2), 2)
    holes = frozenset(cell for cell in range(size**2) if rng.random() >= frozen) - {start, goal}
    drawn = Lake(size, start, goal, holes)
    return drawn if drawn.reachable() else None


@attrs.frozen
class FrozenLake(Environment):
    """Cross a lake with random holes, start and goal, on which a path around the holes exists.

    Each cell but start and goal is ice with probability ``frozen``, otherwise a hole. A step goes the intended way with
    probability ``success_rate``, and each of the two perpendicular ways with half of the rest; the edge holds the
    player back. Reward 1 for reaching the goal, which is success, otherwise 0; goal and holes end the episode. Metrics:
    ``share_of_played_actions_effective`` (the player moved), ``share_of_played_actions_accepted`` (always 1).

    The lake depends on the seed alone, the slips on seed and member: the members of a group see the same lake and slip
    independently (in RAGEN they share the noise, which understates the variance within a group).

    Rules: Gymnasium's FrozenLake with ``is_slippery``.
    """

    size: int = attrs.field(default=4, validator=and_(ge(2), le(50)))
    """Number of rows, and of columns."""
    frozen: float = attrs.field(default=0.9, validator=and_(gt(0), le(1)))
    """Probability that a cell is ice."""
    success_rate: float = attrs.field(default=0.8, validator=and_(ge(0), le(1)))
    """Probability of a step in the intended direction; with 1 nobody slips."""
    view: View = attrs.field(default="grid", validator=in_(get_args(View)))
    """Form of the observations: ``grid``, a map of symbols; ``coord``, lists of (row, column); ``grid_coord``, both."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of lakes: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""

    actions = ACTIONS
    least_reward = 0.0
    concurrency = 1

    @property
    def instruction(self) -> str:  # type: ignore[override]
        slips = " The ice is slippery: a step may go to one side instead." if self.success_rate < 1 else ""
        task = f"You cross a frozen lake: reach the goal and do not fall into a hole.{slips}"
        return f"{task}\n{legend(self.view, _MEANINGS, self.size, self.size)}"

    @property
    def demonstrated(self) -> FrozenLake:  # type: ignore[override]
        """The environment itself."""
        return self

    def make(self, seed: int, member: int = 0) -> FrozenLakeEnv:
        """Make an episode on the lake of ``seed``, with the slips of ``member``."""
        drawn = lake(self.size, self.frozen, self.split, seed)
        return FrozenLakeEnv(self, drawn, seeded("frozen_lake slips", seed, member), drawn.start)


@attrs.define
class FrozenLakeEnv(Env):
    """The environment of one episode of :class:`FrozenLake`."""

    task: FrozenLake
    lake: Lake
    rng: random.Random
    player: int

    @property
    def key(self) -> str:
        """Lake as text: equal for equal lakes only."""
        return self.lake.key

    @property
    def done(self) -> bool:
        return self.player == self.lake.goal or self.player in self.lake.holes

    def initial_observation(self) -> str:
        return observation(self.task.view, self.lake.grid(self.player), self.lake.coord(self.player))

    def step(self, action: str) -> Step:
        """Take a step: Left, Down, Right or Up. Raises ValueError on any other text, RunError after the end."""
        refuse_after_end(self.done)
        direction = ACTIONS.index(action_named(action, ACTIONS))
        turns, chances = zip(*slips(self.task.success_rate), strict=True)
        turn = self.rng.choices(turns, chances)[0]
        before = self.player
        self.player = self.lake.move(before, (direction + turn) % 4)
        success = self.player == self.lake.goal
        return Step(
            self.initial_observation(),
            float(success),
            done=self.done,
            success=success,
            metrics={EFFECTIVE: float(self.player != before), ACCEPTED: 1.0},
        )

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return where the goal is, and the steps that reach it most probably; mistakes are random steps."""
        return demonstrate(self.lake, self.player, self.task.success_rate, most, noise, rng)
