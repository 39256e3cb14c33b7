"""FrozenLake: cross the ice to the goal; the ice is slippery."""

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
"""In turning order: the two neighbours of an action are perpendicular to it."""
_STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))
_MEANINGS = {"P": "player", "_": "ice", "O": "hole", "G": "goal", "X": "player in a hole", "√": "player on the goal"}


@attrs.frozen
class Lake:
    """A square of ice; cells are row-major numbers."""

    size: int
    start: int
    goal: int
    holes: frozenset[int]

    @property
    def key(self) -> str:
        """The content as text, rows joined by ``/``: equal for equal lakes only."""
        return self.grid(self.start).replace("\n", "/")

    def move(self, player: int, direction: int) -> int:
        """The cell after a step towards ``ACTIONS[direction]``; the edge of the lake holds the player back."""
        row, column = divmod(player, self.size)
        down, right = _STEPS[direction]
        row, column = min(max(row + down, 0), self.size - 1), min(max(column + right, 0), self.size - 1)
        return row * self.size + column

    def reachable(self) -> bool:
        """Whether a path leads from the start to the goal around the holes."""
        seen, frontier = {self.start}, [self.start]
        while frontier:
            player = frontier.pop()
            found = {self.move(player, direction) for direction in range(4)} - self.holes - seen
            seen |= found
            frontier.extend(found)
        return self.goal in seen

    def grid(self, player: int) -> str:
        symbols = ["O" if cell in self.holes else "_" for cell in range(self.size**2)]
        symbols[self.goal] = "G"
        symbols[player] = "X" if player in self.holes else "√" if player == self.goal else "P"
        return "\n".join(["".join(symbols[row * self.size : (row + 1) * self.size]) for row in range(self.size)])

    def coord(self, player: int) -> str:
        who = "Player in hole" if player in self.holes else "Player on goal" if player == self.goal else "Player"
        lines = {"Start": [self.start], "Goal": [self.goal], who: [player], "Holes": sorted(self.holes)}
        return "\n".join([f"{label}: {coordinates(cells, self.size)}" for label, cells in lines.items() if cells])


@lru_cache(maxsize=8192)
def lake(size: int, frozen: float, split: Split, seed: int) -> Lake:
    """The lake of a seed: start and goal differ and a path joins them. Raises RunError if none was found."""
    rng = seeded("frozen_lake", size, frozen, seed)
    return draw_task(
        lambda: _draw(size, frozen, rng), lambda drawn: drawn.key, split, f"frozen_lake {size}x{size}, frozen {frozen}"
    )


def _draw(size: int, frozen: float, rng: random.Random) -> Lake | None:
    start, goal = rng.sample(range(size**2), 2)
    holes = frozenset(cell for cell in range(size**2) if rng.random() >= frozen) - {start, goal}
    drawn = Lake(size, start, goal, holes)
    return drawn if drawn.reachable() else None


@attrs.frozen
class FrozenLake(Environment):
    """FrozenLake with random holes, start and goal; a path around the holes exists.

    Each cell but start and goal is ice with probability ``frozen``, otherwise a hole. A step goes the intended way with
    probability ``success_rate``, and each of the two perpendicular ways with half of the rest; the edge holds the
    player back. Reward 1 for reaching the goal, which is success, otherwise 0; goal and holes end the episode. Metrics:
    ``share_of_played_actions_effective`` (the player moved), ``share_of_played_actions_accepted`` (always 1).

    The lake depends on the seed alone, the slips on seed and member: the members of a group see the same lake and slip
    independently (in RAGEN they share the noise, which understates the variance within a group).

    Rules: Gymnasium's FrozenLake with ``is_slippery``.
    """

    size: int = attrs.field(default=4, validator=and_(ge(2), le(50)))
    """Rows and columns."""
    frozen: float = attrs.field(default=0.9, validator=and_(gt(0), le(1)))
    """Probability that a cell is ice."""
    success_rate: float = attrs.field(default=0.8, validator=and_(ge(0), le(1)))
    """Probability of a step in the intended direction; 1 does not slip."""
    view: View = attrs.field(default="grid", validator=in_(get_args(View)))
    """``grid``: a map of symbols; ``coord``: lists of (row, column); ``grid_coord``: both."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Which lakes: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""

    actions = ACTIONS

    @property
    def instruction(self) -> str:  # type: ignore[override]
        slips = " The ice is slippery: a step may go to one side instead." if self.success_rate < 1 else ""
        task = f"You cross a frozen lake: reach the goal and do not fall into a hole.{slips}"
        return f"{task}\n{legend(self.view, _MEANINGS, self.size, self.size)}"

    def make(self, seed: int, member: int = 0) -> FrozenLakeEnv:
        """The lake of ``seed``, with the slips of ``member``."""
        drawn = lake(self.size, self.frozen, self.split, seed)
        return FrozenLakeEnv(self, drawn, seeded("frozen_lake slips", seed, member), drawn.start)


@attrs.define
class FrozenLakeEnv(Env):
    """One episode of :class:`FrozenLake`."""

    task: FrozenLake
    lake: Lake
    rng: random.Random
    player: int

    @property
    def key(self) -> str:
        """The lake as text: equal for equal lakes only."""
        return self.lake.key

    @property
    def done(self) -> bool:
        return self.player == self.lake.goal or self.player in self.lake.holes

    def initial_observation(self) -> str:
        return observation(self.task.view, self.lake.grid(self.player), self.lake.coord(self.player))

    def step(self, action: str) -> Step:
        """One of Left, Down, Right, Up. Raises ValueError on any other, RunError after the end."""
        refuse_after_end(self.done)
        direction = ACTIONS.index(action_named(action, ACTIONS))
        slip = (1 - self.task.success_rate) / 2
        turn = self.rng.choices((0, -1, 1), (self.task.success_rate, slip, slip))[0]
        before, self.player = self.player, self.lake.move(self.player, (direction + turn) % 4)
        success = self.player == self.lake.goal
        return Step(
            self.initial_observation(),
            float(success),
            done=self.done,
            success=success,
            metrics={EFFECTIVE: float(self.player != before), ACCEPTED: 1.0},
        )
