"""The environment ``minigrid`` plays MiniGrid and BabyAI in text: the grid, the direction, and the mission."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any, Literal, get_args

import attrs
from attrs.validators import ge, in_, optional

from .....core.components import Environment
from ...common import Split
from .game import Game
from .play import GymEnv, Maker, as_json, description, names_of, refuse_unknown, refuse_unplayable, registered

View = Literal["agent", "full"]

NAMES = ("Left", "Right", "Forward", "Pickup", "Drop", "Toggle", "Done")
_SYMBOLS = {
    "unseen": "?",
    "empty": ".",
    "wall": "#",
    "floor": ".",
    "door": "D",
    "key": "K",
    "ball": "B",
    "box": "X",
    "goal": "G",
    "lava": "L",
    "agent": ".",
}
_CARRIED = ("key", "ball", "box")
_LISTED = ("door", *_CARRIED, "goal", "lava")
_ARROWS = ">v<^"
_DIRECTIONS = ("right", "down", "left", "up")


@attrs.frozen
class MiniGridGame(Game):
    """MiniGrid as a map of symbols with a list of the objects on it."""

    names: tuple[str, ...] = NAMES
    least_reward: float | None = None
    view: View = "agent"
    """Part of the grid that is shown."""

    def names_in(self, env: Any) -> tuple[str, ...]:
        return self.names[: int(env.action_space.n)]

    def describe(self, env: Any) -> str:
        seen = (
            "You see the part of a world in front of you. The map is turned as you are: you are ^, ahead is up."
            if self.view == "agent"
            else "You see a world from above. The arrow is you, and where you look: > right, v down, < left, ^ up."
        )
        hands = " Pickup, Drop and Toggle (open a door or a box) act on the cell ahead. A locked door needs its key."
        if "Toggle" not in self.names_in(env):
            hands = ""
        return (
            f"{seen}\n"
            f"Left and Right turn you, Forward moves you.{hands}"
            " Fulfil the mission in as few actions as you can.\n"
            "Symbols: # wall, . free, ? unseen, D door, K key, B ball, X box, G goal, L lava. Cells are (row, column), "
            "from (0, 0) at the top left."
        )

    def show(self, env: Any, observed: Any) -> str:
        world = env.unwrapped
        if self.view == "agent":
            cells, arrow = observed["image"], "^"
            column, row = cells.shape[0] // 2, cells.shape[1] - 1
        else:
            cells, arrow = world.grid.encode(), _ARROWS[world.agent_dir]
            column, row = (int(each) for each in world.agent_pos)
        direction = _DIRECTIONS[world.agent_dir]
        carried = f"{world.carrying.color} {world.carrying.type}" if world.carrying else "nothing"
        return (
            f"Mission: {world.mission}\n{_draw(cells, row, column, arrow)}\nObjects: {_objects(cells, row, column)}\n"
            f"You are at ({row}, {column}). Your direction is {direction}. You carry {carried}."
        )

    def key(self, env: Any, observed: Any) -> str:
        full = attrs.evolve(self, view="full")
        return full.show(env, observed)


def _draw(cells: Any, row: int, column: int, arrow: str) -> str:
    """Draw an array of cells, [columns, rows, (object, color, state)], with the agent as an arrow."""
    from minigrid.core.constants import IDX_TO_OBJECT

    width, height = cells.shape[:2]
    symbols = [[_SYMBOLS[IDX_TO_OBJECT[int(cells[x, y, 0])]] for x in range(width)] for y in range(height)]
    symbols[row][column] = arrow
    return "\n".join(["".join(line) for line in symbols])


def _objects(cells: Any, row: int, column: int) -> str:
    """List the objects with their colors, and doors with their state."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX

    states = {number: name for name, number in STATE_TO_IDX.items()}
    listed = []
    for y in range(cells.shape[1]):
        for x in range(cells.shape[0]):
            number, color, state = (int(each) for each in cells[x, y])
            name = IDX_TO_OBJECT[number]
            # the agent's own cell of its view holds what it carries
            if name not in _LISTED or ((y, x) == (row, column) and name in _CARRIED):
                continue
            words = {"door": [states.get(state, "closed"), IDX_TO_COLOR[color]], "goal": [], "lava": []}
            listed.append(f"{' '.join([*words.get(name, [IDX_TO_COLOR[color]]), name])} ({y}, {x})")
    return ", ".join(listed) or "none"


@attrs.frozen
class MiniGrid(Environment):
    """Fulfil missions in the grid worlds of MiniGrid and BabyAI: find, fetch, open, put next to.

    Rewards are those of the package: 1 - 0.9 * steps / max_steps for a mission that is fulfilled, which is success, and
    0 otherwise; -1 for a collision in Dynamic-Obstacles. The metric ``share_of_played_actions_accepted`` is always 1.

    The members of a group see the same grid and mission, those of ``reset(seed=)``; what moves by chance depends on the
    member, too. The mission and the direction are a part of each observation.

    Source: MiniGrid and BabyAI (Chevalier-Boisvert et al. 2023, arXiv:2306.13831).
    """

    id: str
    """Name of the environment, such as ``BabyAI-GoToRedBall-v0`` or ``MiniGrid-DoorKey-5x5-v0``."""
    view: View = attrs.field(default="agent", validator=in_(get_args(View)))
    """Part that is shown: ``agent``, the 7x7 cells in front of the agent that it can see; ``full``, the whole grid."""
    settings: Mapping[str, Any] = attrs.field(factory=dict)
    """Arguments of the environment, such as ``{size: 8}``."""
    max_steps: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """Number of steps after which an episode is truncated; ``None`` for the number that belongs to the world."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of worlds: ``validation`` is one in five by grid and mission, ``train`` the others, ``all`` both."""

    concurrency = 1

    def __attrs_post_init__(self) -> None:
        known = registered("minigrid", "minigrid")
        refuse_unknown(self.id, tuple(name for name in known if name.startswith(("MiniGrid-", "BabyAI-"))))
        refuse_unplayable(self.maker, self.split)

    @property
    def maker(self) -> Maker:
        """What makes the episodes."""
        return Maker(self.id, as_json(self.settings), self.max_steps, MiniGridGame(view=self.view))

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return description(self.maker)

    @property
    def actions(self) -> tuple[str, ...] | None:  # type: ignore[override]
        return names_of(self.maker)

    @property
    def digest(self) -> str:
        """Version of the package."""
        return f"minigrid {importlib.metadata.version('minigrid')}"

    def make(self, seed: int, member: int = 0) -> GymEnv:
        """Make an episode in the world of ``seed``, with the chances of ``member``."""
        return self.maker.play(seed, member, self.split)
