"""In FrozenLake one crosses slippery ice to a goal."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Literal, get_args

import attrs
from attrs.validators import and_, ge, gt, in_, le

from ...core.components import Env, Environment, Step
from .common import Split, action_named, draw_task, refuse_after_end, seeded
from .metrics import ACCEPTED, EFFECTIVE
from .views import coordinates, legend, observation

View = Literal["grid", "coord", "grid_coord"]

ACTIONS = ("Left", "Down", "Right", "Up")
"""Actions in turning order: the two neighbours of an action are perpendicular to it."""
_STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))
_MEANINGS = {"P": "player", "_": "ice", "O": "hole", "G": "goal", "X": "player in a hole", "√": "player on the goal"}


@attrs.frozen
class Lake:
    """A lake is a square of ice; cells are row-major numbers."""

    size: int
    """Number of rows, and of columns."""
    start: int
    """Cell on which the player begins."""
    goal: int
    """Cell that the player must reach."""
    holes: frozenset[int]
    """Cells that end the episode without success."""

    @property
    def key(self) -> str:
        """Content as text, rows joined by ``/``: equal for equal lakes only."""
        return self.grid(self.start).replace("\n", "/")

    def move(self, player: int, direction: int) -> int:
        """Return the cell after a step towards ``ACTIONS[direction]``; the edge of the lake holds the player back."""
        row, column = divmod(player, self.size)
        down, right = _STEPS[direction]
        row = min(max(row + down, 0), self.size - 1)
        column = min(max(column + right, 0), self.size - 1)
        return row * self.size + column

    def reachable(self) -> bool:
        """Say whether a path leads from the start to the goal around the holes."""
        visited = {self.start}
        frontier = [self.start]
        while frontier:
            player = frontier.pop()
            new = {self.move(player, direction) for direction in range(4)} - self.holes - visited
            visited |= new
            frontier.extend(new)
        return self.goal in visited

    def grid(self, player: int) -> str:
        """Show the lake as a map of symbols."""
        symbols = ["O" if cell in self.holes else "_" for cell in range(self.size**2)]
        symbols[self.goal] = "G"
        if player in self.holes:
            symbols[player] = "X"
        else:
            symbols[player] = "√" if player == self.goal else "P"
        return "\n".join(["".join(symbols[row * self.size : (row + 1) * self.size]) for row in range(self.size)])

    def coord(self, player: int) -> str:
        """Show the lake as lists of coordinates."""
        label_of_player = "Player"
        if player in self.holes:
            label_of_player = "Player in hole"
        elif player == self.goal:
            label_of_player = "Player on goal"
        lines = {"Start": [self.start], "Goal": [self.goal], label_of_player: [player], "Holes": sorted(self.holes)}
        return "\n".join([f"{label}: {coordinates(cells, self.size)}" for label, cells in lines.items() if cells])


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
        slip = (1 - self.task.success_rate) / 2
        turn = self.rng.choices((0, -1, 1), (self.task.success_rate, slip, slip))[0]
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
