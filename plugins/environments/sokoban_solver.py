"""Breadth-first search over Sokoban positions: shortest solutions forwards, exact solution lengths backwards.

A position is ``(player cell, bit set of the boxes)`` in a room that does not change.
"""

from __future__ import annotations

from .sokoban_rules import ACTIONS, Board, cells, offsets

Position = tuple[int, int]


def solve(board: Board, max_actions: int = 100) -> tuple[str, ...] | None:
    """A shortest sequence of actions that solves the board; ``None`` if there is none of at most ``max_actions``.

    Exact for any number of boxes; time and memory grow with the number of reachable positions.
    """
    floor, targets = board.floor, board.targets
    moves = tuple(zip(ACTIONS, offsets(board.width), strict=True))
    start = (board.player, board.boxes)
    if board.solved:
        return ()
    came_from: dict[Position, tuple[Position, str] | None] = {start: None}
    frontier = [start]
    for _ in range(max_actions):
        found = []
        for position in frontier:
            player, boxes = position
            for action, offset in moves:
                here = 1 << player + offset
                if not floor & here:
                    continue
                moved = boxes
                if boxes & here:
                    behind = 1 << player + 2 * offset
                    if not floor & behind or boxes & behind:
                        continue
                    moved ^= here | behind
                reached = (player + offset, moved)
                if reached in came_from:
                    continue
                came_from[reached] = (position, action)
                if not moved & ~targets:
                    return _actions_to(reached, came_from)
                found.append(reached)
        frontier = found
    return None


def _actions_to(position: Position, came_from: dict[Position, tuple[Position, str] | None]) -> tuple[str, ...]:
    actions = []
    while step := came_from[position]:
        position, action = step
        actions.append(action)
    return tuple(reversed(actions))


def positions_by_distance(
    width: int, floor: int, targets: int, max_actions: int, max_positions: int
) -> list[list[Position]]:
    """Play backwards from the solved room, pulling boxes: entry ``d`` lists the positions ``d`` actions from solved.

    Entry 0 is every solved position. The list ends with entry ``max_actions``, when nothing new is found, or with the
    entry that brings the total to ``max_positions``. Each entry is complete: it proves the length of the solutions.
    """
    steps = offsets(width)
    layers = [[(player, targets) for player in cells(floor & ~targets)]]
    seen = set(layers[0])
    while len(layers) <= max_actions and len(seen) < max_positions:
        found = []
        for player, boxes in layers[-1]:
            free = floor & ~boxes
            for offset in steps:
                before = player - offset
                if not free >> before & 1:
                    continue
                walked = (before, boxes)
                if walked not in seen:
                    seen.add(walked)
                    found.append(walked)
                ahead = 1 << player + offset
                if boxes & ahead:
                    pulled = (before, boxes ^ (ahead | 1 << player))
                    if pulled not in seen:
                        seen.add(pulled)
                        found.append(pulled)
        if not found:
            break
        layers.append(found)
    return layers
