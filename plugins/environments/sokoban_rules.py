"""The rules of Sokoban are pure functions of an immutable board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import attrs

ACTIONS = ("Up", "Down", "Left", "Right")
SYMBOLS = "#_O√XPS"
"""Symbols of the cell codes 0 to 6: wall, floor, target, box on target, box, player, player on target."""
WALL, FLOOR, TARGET, BOX_ON_TARGET, BOX, PLAYER, PLAYER_ON_TARGET = range(7)


@attrs.frozen
class Board:
    """A board is a room and the places of everything in it. Cell ``row * width + column`` is bit ``1 << cell`` of sets.

    The outermost cells are walls, so that no move leaves the board.
    """

    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    floor: int
    """Cells that are not walls, as a bit set."""
    targets: int
    """Cells of targets, as a bit set."""
    boxes: int
    """Cells of boxes, as a bit set."""
    player: int
    """Cell of the player."""

    @property
    def solved(self) -> bool:
        """Whether every box stands on a target."""
        return not self.boxes & ~self.targets

    @property
    def key(self) -> str:
        """Content as text, rows joined by ``/``: equal for equal boards only."""
        return draw(self).replace("\n", "/")

    def code(self, cell: int) -> int:
        """Return the code of what stands on ``cell``: ``WALL`` to ``PLAYER_ON_TARGET``, numbered as in gym-sokoban."""
        bit = 1 << cell
        if not self.floor & bit:
            return WALL
        if cell == self.player:
            return PLAYER_ON_TARGET if self.targets & bit else PLAYER
        if self.boxes & bit:
            return BOX_ON_TARGET if self.targets & bit else BOX
        return TARGET if self.targets & bit else FLOOR


def offsets(width: int) -> tuple[int, int, int, int]:
    """Return by how much each action changes the number of the player's cell, in the order of ``ACTIONS``."""
    return -width, width, -1, 1


def cells(bits: int) -> Iterator[int]:
    """Yield the cells of a bit set, in row-major order."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def move(board: Board, action: str) -> Board:
    """Return the board after one action: the same object if the player cannot move.

    A box in the way is pushed if the cell behind it is free.
    """
    offset = offsets(board.width)[ACTIONS.index(action)]
    player = board.player + offset
    entered = 1 << player
    if not board.floor & entered:
        return board
    boxes = board.boxes
    if boxes & entered:
        behind = 1 << player + offset
        if not board.floor & ~boxes & behind:
            return board
        boxes ^= entered | behind
    return Board(board.height, board.width, board.floor, board.targets, boxes, player)


def reward(before: Board, after: Board) -> float:
    """Return the reward of an action: -0.1, +1 for a box onto a target, -1 for one off it, +10 when all are on one."""
    gained = (after.boxes & after.targets).bit_count() - (before.boxes & before.targets).bit_count()
    return -0.1 + gained + (10.0 if after.solved else 0.0)


def draw(board: Board, symbols: str = SYMBOLS) -> str:
    """Draw the board as rows of symbols."""
    text = list(_empty_room(board.height, board.width, board.floor, board.targets, symbols))
    for cell in (*cells(board.boxes), board.player):
        # each row before this one has a newline at its end
        text[cell + cell // board.width] = symbols[board.code(cell)]
    return "".join(text)


@lru_cache(maxsize=1024)
def _empty_room(height: int, width: int, floor: int, targets: int, symbols: str) -> str:
    """Draw the room without boxes and player; it stays the same in an episode, and the episodes of a group share it."""
    rows = []
    for row in range(height):
        line = ""
        for cell in range(row * width, (row + 1) * width):
            if targets >> cell & 1:
                line += symbols[TARGET]
            else:
                line += symbols[FLOOR] if floor >> cell & 1 else symbols[WALL]
        rows.append(line)
    return "\n".join(rows)


def parse(rows: Sequence[str]) -> Board:
    """Read the board that :func:`draw` shows as ``rows``.

    Raises:
        ValueError: ragged rows, an unknown symbol, an open border, not one player, or not a target for each box.
    """
    height, width = len(rows), len(rows[0])
    text = "".join(rows)
    if any(len(row) != width for row in rows) or not set(text) <= set(SYMBOLS):
        raise ValueError(f"rows must be of equal length and made of {SYMBOLS!r}")

    def cells_with(*codes: int) -> int:
        return sum(1 << cell for cell, symbol in enumerate(text) if SYMBOLS.index(symbol) in codes)

    player = cells_with(PLAYER, PLAYER_ON_TARGET)
    targets = cells_with(TARGET, BOX_ON_TARGET, PLAYER_ON_TARGET)
    boxes = cells_with(BOX, BOX_ON_TARGET)
    if player.bit_count() != 1 or targets.bit_count() != boxes.bit_count():
        raise ValueError("a board needs one player and as many targets as boxes")
    floor = ((1 << height * width) - 1) ^ cells_with(WALL)
    if floor & ~interior(height, width):
        raise ValueError("the outermost cells must be walls")
    return Board(height, width, floor, targets, boxes, player.bit_length() - 1)


def interior(height: int, width: int) -> int:
    """Return the cells that do not lie on the border, as a bit set."""
    row = (1 << width - 2) - 1
    return sum(row << r * width + 1 for r in range(1, height - 1))
