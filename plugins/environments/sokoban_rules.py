"""The rules of Sokoban on an immutable board: pure functions, no random numbers, no text but the grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import attrs

ACTIONS = ("Up", "Down", "Left", "Right")
SYMBOLS = "#_O√XPS"
"""Wall, floor, target, box on target, box, player, player on target: the symbol of each cell code 0 to 6."""
WALL, FLOOR, TARGET, BOX_ON_TARGET, BOX, PLAYER, PLAYER_ON_TARGET = range(7)


@attrs.frozen
class Board:
    """A room and where everything stands. Cell ``row * width + column`` is bit ``1 << cell`` of each set.

    The outermost cells are walls, so that no move leaves the board.
    """

    height: int
    width: int
    floor: int
    """The cells that are not walls, as a bit set; so are ``targets`` and ``boxes``."""
    targets: int
    boxes: int
    player: int
    """The player's cell."""

    @property
    def solved(self) -> bool:
        """Every box stands on a target."""
        return not self.boxes & ~self.targets

    @property
    def key(self) -> str:
        """The content as text, rows joined by ``/``: equal for equal boards only."""
        return draw(self).replace("\n", "/")

    def code(self, cell: int) -> int:
        """What stands at ``cell``: ``WALL`` to ``PLAYER_ON_TARGET``, numbered as gym-sokoban does."""
        bit = 1 << cell
        if not self.floor & bit:
            return WALL
        if cell == self.player:
            return PLAYER_ON_TARGET if self.targets & bit else PLAYER
        if self.boxes & bit:
            return BOX_ON_TARGET if self.targets & bit else BOX
        return TARGET if self.targets & bit else FLOOR


def offsets(width: int) -> tuple[int, int, int, int]:
    """How far each action moves the player's cell, in the order of ``ACTIONS``."""
    return -width, width, -1, 1


def cells(bits: int) -> Iterator[int]:
    """The cells of a bit set, in row-major order."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def move(board: Board, action: str) -> Board:
    """The board after one action: the same object if the player cannot move.

    A box in the way is pushed if the cell behind it is free.
    """
    offset = offsets(board.width)[ACTIONS.index(action)]
    player = board.player + offset
    here = 1 << player
    if not board.floor & here:
        return board
    boxes = board.boxes
    if boxes & here:
        behind = 1 << player + offset
        if not board.floor & ~boxes & behind:
            return board
        boxes ^= here | behind
    return Board(board.height, board.width, board.floor, board.targets, boxes, player)


def reward(before: Board, after: Board) -> float:
    """Of one action: -0.1, +1 for a box pushed onto a target, -1 for one pushed off, +10 when all are on targets."""
    gained = (after.boxes & after.targets).bit_count() - (before.boxes & before.targets).bit_count()
    return -0.1 + gained + (10.0 if after.solved else 0.0)


def draw(board: Board, symbols: str = SYMBOLS) -> str:
    """The board as rows of symbols."""
    text = list(_empty_room(board.height, board.width, board.floor, board.targets, symbols))
    for cell in (*cells(board.boxes), board.player):
        text[cell + cell // board.width] = symbols[board.code(cell)]  # each row ends with a newline
    return "".join(text)


@lru_cache(maxsize=1024)
def _empty_room(height: int, width: int, floor: int, targets: int, symbols: str) -> str:
    """What :func:`draw` shows without boxes and player: it stays the same for an episode, and a group shares it."""
    codes = [TARGET if targets >> cell & 1 else FLOOR if floor >> cell & 1 else WALL for cell in range(height * width)]
    return "\n".join(["".join([symbols[code] for code in codes[row * width :][:width]]) for row in range(height)])


def parse(rows: Sequence[str]) -> Board:
    """The board that :func:`draw` shows as ``rows``.

    Raises:
        ValueError: ragged rows, an unknown symbol, an open border, not one player, or not a target for each box.
    """
    height, width = len(rows), len(rows[0])
    text = "".join(rows)
    if any(len(row) != width for row in rows) or not set(text) <= set(SYMBOLS):
        raise ValueError(f"rows must be of equal length and made of {SYMBOLS!r}")

    def where(*codes: int) -> int:
        return sum(1 << cell for cell, symbol in enumerate(text) if SYMBOLS.index(symbol) in codes)

    player = where(PLAYER, PLAYER_ON_TARGET)
    targets, boxes = where(TARGET, BOX_ON_TARGET, PLAYER_ON_TARGET), where(BOX, BOX_ON_TARGET)
    if player.bit_count() != 1 or targets.bit_count() != boxes.bit_count():
        raise ValueError("a board needs one player and as many targets as boxes")
    floor = ((1 << height * width) - 1) ^ where(WALL)
    if floor & ~interior(height, width):
        raise ValueError("the outermost cells must be walls")
    return Board(height, width, floor, targets, boxes, player.bit_length() - 1)


def interior(height: int, width: int) -> int:
    """The cells that do not lie on the border, as a bit set."""
    row = (1 << width - 2) - 1
    return sum(row << r * width + 1 for r in range(1, height - 1))
