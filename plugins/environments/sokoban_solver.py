"""Sokoban positions are searched breadth-first: forwards for shortest solutions, backwards for their exact lengths.

A position is ``(player cell, bit set of the boxes)`` in a room that does not change.
"""

from __future__ import annotations

from .sokoban_rules import ACTIONS, Board, cells, offsets

Position = tuple[int, int]


def solve(board: Board, max_actions: int = 100) -> tuple[str, ...] | None:
    """Find a shortest sequence of actions that solves the board; ``None`` if there is none of at most ``max_actions``.

    The search is exact for any number of boxes; time and memory grow with the number of reachable positions.
    """
    floor, targets = board.floor, board.targets
    moves = tuple(zip(ACTIONS, offsets(board.width), strict=True))
    start = (board.player, board.boxes)
    if board.solved:
        return ()
    came_from: dict[Position, tuple[Position, str] | None] = {start: None}
    frontier = [start]
    for _ in range(max_actions):
        next_frontier = []
        for position in frontier:
            player, boxes = position
            for action, offset in moves:
                # the rules of sokoban_rules.move, on bit sets and without boards: this loop runs very often
                entered = 1 << player + offset
                if not floor & entered:
                    continue
                moved = boxes
                if boxes & entered:
                    behind = 1 << player + 2 * offset
                    if not floor & behind or boxes & behind:
                        continue
                    moved ^= entered | behind
                reached = (player + offset, moved)
                if reached in came_from:
                    continue
                came_from[reached] = (position, action)
                if not moved & ~targets:
                    return _actions_to(reached, came_from)
                next_frontier.append(reached)
        frontier = next_frontier
    return None


def _actions_to(position: Position, came_from: dict[Position, tuple[Position, str] | None]) -> tuple[str, ...]:
    """Follow the search back to its start, and return the actions in their order."""
    actions = []
    while step := came_from[position]:
        position, action = step
        actions.append(action)
    return tuple(reversed(actions))


def positions_by_distance(
    width: int, floor: int, targets: int, max_actions: int, max_positions: int
) -> list[list[Position]]:
    """Play backwards from the solved room, pulling boxes, and list the positions by the length of their solutions.

    Entry ``d`` has all positions whose shortest solution has ``d`` actions; entry 0 all solved positions. The list ends
    with entry ``max_actions``, with the last one that has a position, or with the entry that brings the total to
    ``max_positions``. Each entry is complete, and so proves the length of the solutions.
    """
    steps = offsets(width)
    layers = [[(player, targets) for player in cells(floor & ~targets)]]
    visited = set(layers[0])
    while len(layers) <= max_actions and len(visited) < max_positions:
        layer = []
        for player, boxes in layers[-1]:
            # the player steps back, either alone or pulling the box that stands ahead
            free = floor & ~boxes
            for offset in steps:
                before = player - offset
                if not free >> before & 1:
                    continue
                walked = (before, boxes)
                if walked not in visited:
                    visited.add(walked)
                    layer.append(walked)
                ahead = 1 << player + offset
                if boxes & ahead:
                    pulled = (before, boxes ^ (ahead | 1 << player))
                    if pulled not in visited:
                        visited.add(pulled)
                        layer.append(pulled)
        if not layer:
            break
        layers.append(layer)
    return layers
