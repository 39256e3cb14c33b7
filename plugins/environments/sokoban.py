"""In Sokoban one pushes every box onto a target."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal, get_args

import attrs
from attrs.validators import and_, ge, in_, le, optional

from ...core.components import Env, Environment, Step
from .common import Split, action_named, refuse_after_end
from .metrics import ACCEPTED, EFFECTIVE
from .sokoban_demonstrator import demonstrate, random_start
from .sokoban_rooms import room
from .sokoban_rules import (
    ACTIONS,
    BOX,
    BOX_ON_TARGET,
    PLAYER,
    PLAYER_ON_TARGET,
    SYMBOLS,
    TARGET,
    Board,
    cells,
    draw,
    interior,
    move,
    reward,
)
from .views import coordinates, legend, observation

LARGEST = 50
"""Largest number of rows, of columns and of boxes."""
View = Literal["grid", "coord", "grid_coord", "words"]

_MEANINGS = ("wall", "floor", "target", "box on target", "box", "player", "player on target")
_COORD_LINES = {
    TARGET: "Targets",
    BOX: "Boxes",
    BOX_ON_TARGET: "Boxes on target",
    PLAYER: "Player",
    PLAYER_ON_TARGET: "Player on target",
}


def _check_symbols(instance: Sokoban, attribute: attrs.Attribute, value: str) -> None:
    if len(value) != len(SYMBOLS) or len(set(value)) != len(SYMBOLS) or any(symbol.isspace() for symbol in value):
        raise ValueError(f"symbols must be 7 different visible characters ({', '.join(_MEANINGS)}), not {value!r}")


@attrs.frozen
class Sokoban(Environment):
    """Push boxes in generated rooms, each of which is proved to be solvable within ``max_solution`` actions.

    Reward of an action: -0.1, +1 for a box pushed onto a target, -1 for one pushed off, +10 when all boxes are on
    targets; so the best last action earns 10.9. An episode ends when the room is solved, which is success, or after
    ``max_steps`` actions. Metrics: ``share_of_played_actions_effective`` (the player moved) and
    ``share_of_played_actions_accepted`` (always 1).

    A seed gives the same room in every process and to every member of a group. No room starts with a box on a target;
    the lengths of shortest solutions that are possible in a drawn room are equally likely. With ``split`` the rooms of
    training and validation are disjoint by content, whatever the seeds; without it, small rooms are in both.

    Rules and rewards: gym-sokoban 0.0.6. The rooms are carved in its manner but are not the same ones: where a room
    fails, RAGEN's next one depends on PYTHONHASHSEED, and some of its rooms cannot be solved within its 10 actions.
    """

    size: int = attrs.field(default=6, validator=and_(ge(3), le(LARGEST)))
    """Number of rows of the room, outer walls included, and of columns, unless ``width`` is given."""
    boxes: int = attrs.field(default=1, validator=and_(ge(1), le(LARGEST)))
    """Number of boxes, and of targets."""
    view: View = attrs.field(default="grid_coord", validator=in_(get_args(View)))
    """Form of the observations: ``grid``, a map of symbols; ``coord``, lists of (row, column), without the walls, as in
    RAGEN; ``grid_coord``, both; ``words``, one line of words such as ``Pr1 Pc2``, for models with a word vocabulary."""
    split: Split = attrs.field(default="all", validator=in_(get_args(Split)))
    """Set of rooms: ``validation`` is one in five by content, ``train`` the others, ``all`` both."""
    max_steps: int = attrs.field(default=100, validator=and_(ge(1), le(10**6)))
    """Number of actions after which the episode ends unsolved."""
    max_solution: int = attrs.field(default=10, validator=and_(ge(1), le(1000)))
    """Largest number of actions in a room's shortest solution; above the rollout's ``max_actions``, some rooms cannot
    be solved."""
    width: int | None = attrs.field(default=None, validator=optional(and_(ge(3), le(LARGEST))))
    """Number of columns, outer walls included; ``None`` is as many as rows."""
    symbols: str = attrs.field(default=SYMBOLS, validator=_check_symbols)
    """Seven characters of the map: wall, floor, target, box on target, box, player, player on target."""

    actions = ACTIONS
    concurrency = 1

    def __attrs_post_init__(self) -> None:
        if max(self.size, self.columns) < 5:
            raise ValueError(
                "a room needs 5 rows or 5 columns at least: player, box and target in a line, and the walls"
            )
        inner_cells = (self.size - 2) * (self.columns - 2)
        if inner_cells <= 2 * self.boxes:
            raise ValueError(
                f"boxes: {self.boxes} boxes, their targets and the player need more than {inner_cells} cells"
            )

    @property
    def columns(self) -> int:
        """Number of columns, outer walls included."""
        return self.size if self.width is None else self.width

    @property
    def instruction(self) -> str:  # type: ignore[override]
        if self.view == "words":
            bounds = f"r1 to r{self.size - 2} and c1 to c{self.columns - 2}"
            return f"Sokoban. Push every box B onto a target T. P is you, W a wall. The room spans {bounds}."
        task = (
            "You play Sokoban: push every box onto a target. You push a box by walking into it, "
            "one box at a time and only into a free cell; boxes cannot be pulled."
        )
        meanings = dict(zip(self.symbols, _MEANINGS, strict=True))
        return f"{task}\n{legend(self.view, meanings, self.size, self.columns)}"

    @property
    def demonstrated(self) -> RandomStarts:  # type: ignore[override]
        """Every solvable board of the split."""
        return RandomStarts(self)

    def make(self, seed: int, member: int = 0) -> SokobanEnv:
        """Make an episode in the room of ``seed``, the same for every member: no action has a random effect."""
        return SokobanEnv(self, room(self.size, self.columns, self.boxes, self.max_solution, self.split, seed))

    def show(self, board: Board) -> str:
        """Show a board in this environment's view."""
        if self.view == "words":
            return words(board)
        if self.view == "grid":
            return draw(board, self.symbols)
        return observation(self.view, draw(board, self.symbols), coord(board))


def _with_defaults(**defaults: Any) -> Callable[[type, list[attrs.Attribute]], list[attrs.Attribute]]:
    """Make a field transformer that keeps the inherited parameters in their order, some with another default."""

    def transform(cls: type, fields: list[attrs.Attribute]) -> list[attrs.Attribute]:
        return [field.evolve(default=defaults.get(field.name, field.default)) for field in fields]

    return transform


@attrs.frozen(field_transformer=_with_defaults(view="grid"))
class SokobanSimple(Sokoban):
    """Play RAGEN's SimpleSokoban: :class:`Sokoban`, 6x6, one box, shown as a grid."""


@attrs.frozen(field_transformer=_with_defaults(size=8, boxes=2, view="grid"))
class SokobanLarger(Sokoban):
    """Play RAGEN's LargerSokoban: :class:`Sokoban`, 8x8, two boxes, shown as a grid."""


@attrs.frozen
class RandomStarts(Environment):
    """Play every solvable board of a split, not only the rooms that Sokoban's generator makes.

    A model that will play unseen rooms must see more boards than the generator has.
    """

    environment: Sokoban
    """The Sokoban whose size, boxes and split the boards have."""

    @property
    def instruction(self) -> str:  # type: ignore[override]
        return self.environment.instruction

    @property
    def actions(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.environment.actions

    def make(self, seed: int, member: int = 0) -> SokobanEnv:
        """Make an episode on the board of ``seed``."""
        task = self.environment
        board = random_start(task.size, task.columns, task.boxes, task.max_solution, task.split, seed)
        return SokobanEnv(task, board)


@attrs.define
class SokobanEnv(Env):
    """The environment of one episode of :class:`Sokoban`."""

    task: Sokoban
    board: Board
    steps: int = 0

    @property
    def key(self) -> str:
        """Room as text: equal for equal rooms only."""
        return self.board.key

    def initial_observation(self) -> str:
        return self.task.show(self.board)

    def step(self, action: str) -> Step:
        """Take a step: Up, Down, Left or Right. Raises ValueError on any other text, RunError after the end."""
        refuse_after_end(self.board.solved or self.steps >= self.task.max_steps)
        before = self.board
        after = move(before, action_named(action, ACTIONS))
        self.board = after
        self.steps += 1
        return Step(
            self.task.show(after),
            reward(before, after),
            done=after.solved or self.steps >= self.task.max_steps,
            success=after.solved,
            metrics={EFFECTIVE: float(after is not before), ACCEPTED: 1.0},
        )

    def demonstrate(self, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        """Return a thought about where things are, and the next actions of a shortest solution; mistakes are random."""
        return demonstrate(self.board, most, noise, rng)


def coord(board: Board) -> str:
    """List the size of the board and the cells of everything but walls; lines without a cell are left out."""
    lines = [f"Board: {board.height} rows x {board.width} columns"]
    codes = {cell: board.code(cell) for cell in cells(board.targets | board.boxes | 1 << board.player)}
    for code, label in _COORD_LINES.items():
        with_code = [cell for cell in codes if codes[cell] == code]
        if with_code:
            lines.append(f"{label}: {coordinates(with_code, board.width)}")
    return "\n".join(lines)


def words(board: Board) -> str:
    """Write the whole state as one line: ``Pr1 Pc2 Br2 Bc2 Tr3 Tc1 Wr1c1`` (player, box, target, wall inside).

    Each kind of thing has its own words, so that a model with a word vocabulary need not find out what a row belongs
    to.
    """
    things = {"P": 1 << board.player, "B": board.boxes, "T": board.targets}
    walls = cells(interior(board.height, board.width) & ~board.floor)
    parts = []
    for letter, bits in things.items():
        for cell in cells(bits):
            row, column = divmod(cell, board.width)
            parts.append(f"{letter}r{row} {letter}c{column}")
    parts += [f"Wr{cell // board.width}c{cell % board.width}" for cell in walls]
    return " ".join(parts)
