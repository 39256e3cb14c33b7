"""A demonstrator of Sokoban follows a shortest solution, and says where things are before it moves."""

from __future__ import annotations

import random

from .common import Split, seeded, split_of
from .sokoban_rules import ACTIONS, Board, cells, interior, move
from .sokoban_solver import positions_by_distance, solve


def demonstrate(board: Board, most: int, noise: float, rng: random.Random) -> tuple[str, tuple[str, ...]]:
    """Return a thought, and up to ``most`` actions that end where the board is solved.

    A share ``noise`` of the actions is random; the others are the next ones of a shortest solution. Once the board can
    no longer be solved, all actions are random.
    """
    thought = think(board)
    names: list[str] = []
    while len(names) < most and not board.solved:
        solution = solve(board)
        name = rng.choice(ACTIONS) if solution is None or rng.random() < noise else solution[0]
        names.append(name)
        board = move(board, name)
    return thought, tuple(names)


def think(board: Board) -> str:
    """Say in which direction the first box off target is from the player, and the first free target from that box."""
    box = next(cells(board.boxes & ~board.targets))
    target = next(cells(board.targets & ~board.boxes))
    return f"box is {_direction(board, board.player, box)} target is {_direction(board, box, target)}"


def _direction(board: Board, start: int, end: int) -> str:
    down = end // board.width - start // board.width
    right = end % board.width - start % board.width
    vertical = ["Down" if down > 0 else "Up"] if down else []
    horizontal = ["Right" if right > 0 else "Left"] if right else []
    return " ".join(vertical + horizontal)


def random_start(height: int, width: int, boxes: int, max_solution: int, split: Split, seed: int) -> Board:
    """Draw boards until one of the split can be solved, then a start at a random distance from the solution."""
    rng = seeded("start", seed)
    inside = list(cells(interior(height, width)))
    while True:
        floor = rng.sample(inside, rng.randint(1 + 2 * boxes, len(inside)))
        targets = sum(1 << cell for cell in floor[:boxes])
        bits = sum(1 << cell for cell in floor)
        layers = positions_by_distance(width, bits, targets, max_solution, 50_000)
        starts = []
        for layer in layers:
            off_target = [position for position in layer if not position[1] & targets]
            if off_target:
                starts.append(off_target)
        if not starts:
            continue
        player, box_bits = rng.choice(rng.choice(starts))
        board = Board(height, width, bits, targets, box_bits, player)
        if split in ("all", split_of(board.key)):
            return board
