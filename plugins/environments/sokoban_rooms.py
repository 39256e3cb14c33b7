"""Random Sokoban rooms are made here, each proved to be solvable within a number of actions.

The structure follows gym-sokoban: a random walk stamps floor into solid wall, targets are put on the floor, boxes start
on the targets and are pulled away. gym-sokoban pulls depth-first; the search here is breadth-first, so it gives the
length of the shortest solution of every position.
"""

from __future__ import annotations

import random
from functools import lru_cache

from .common import Split, draw_task, seeded
from .sokoban_rules import Board, cells, interior
from .sokoban_solver import positions_by_distance

_DIRECTIONS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_TURN_PROBABILITY = 0.35
_STAMPS = (
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 0), (0, -1), (1, 0)),
    ((0, 0), (0, -1), (1, 0), (1, -1)),
    ((0, 0), (0, 1), (1, 0)),
)
"""Shapes that the walk carves around itself, as (row, column) offsets; each has the cell itself, so the floor is
connected."""
_MAX_POSITIONS = 50_000
"""Number of positions at which pulling stops; usual rooms have fewer, and for large ones it bounds the time."""


@lru_cache(maxsize=8192)
def room(height: int, width: int, boxes: int, max_solution: int, split: Split, seed: int) -> Board:
    """Make the room of a seed: no box on a target, solvable within ``max_solution`` actions, in the split.

    The members of a group ask for the same room, which is made once.

    Raises:
        RunError: there is no such room.
    """
    rng = seeded("sokoban", height, width, boxes, max_solution, seed)
    return draw_task(
        lambda: _draw(height, width, boxes, max_solution, rng),
        lambda board: board.key,
        split,
        f"sokoban {height}x{width} with {boxes} boxes and solutions of at most {max_solution} actions",
    )


def _draw(height: int, width: int, boxes: int, max_solution: int, rng: random.Random) -> Board | None:
    """Draw a room; ``None`` if it has too little floor or no start."""
    floor = _carve(height, width, rng)
    if floor.bit_count() <= 2 * boxes:
        return None
    targets = sum(1 << cell for cell in rng.sample(list(cells(floor)), boxes))
    layers = positions_by_distance(width, floor, targets, max_solution, _MAX_POSITIONS)
    starts = []
    for layer in layers:
        without_box_on_target = [position for position in layer if not position[1] & targets]
        if without_box_on_target:
            starts.append(without_box_on_target)
    if not starts:
        return None
    # Every length that occurs is equally likely: drawn from all positions, nearly all solutions would be long ones.
    player, pulled = rng.choice(rng.choice(starts))
    return Board(height, width, floor, targets, pulled, player)


def _carve(height: int, width: int, rng: random.Random) -> int:
    """Carve the floor, as a bit set, along a random walk of ``1.7 * (height + width)`` steps."""
    row, column = rng.randint(1, height - 2), rng.randint(1, width - 2)
    down, right = rng.choice(_DIRECTIONS)
    floor = 0
    for _ in range(int(1.7 * (height + width))):
        if rng.random() < _TURN_PROBABILITY:
            down, right = rng.choice(_DIRECTIONS)
        row = min(max(row + down, 1), height - 2)
        column = min(max(column + right, 1), width - 2)
        for r, c in rng.choice(_STAMPS):
            floor |= 1 << (row + r) * width + column + c
    return floor & interior(height, width)
