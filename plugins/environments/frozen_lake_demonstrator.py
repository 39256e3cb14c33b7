"""A demonstrator of FrozenLake goes where the goal is reached most probably, knowing how often a step slips."""

from __future__ import annotations

import random
from functools import lru_cache

from .frozen_lake_rules import ACTIONS, Lake, slips

PATIENCE = 0.99
"""Factor by which the worth of the goal shrinks with each step: the shorter of two safe ways is the better one."""
PRECISION = 1e-9


@lru_cache(maxsize=4096)
def best_directions(lake: Lake, success_rate: float) -> tuple[int, ...]:
    """Return the best direction of each cell, by value iteration; 0 where the episode has ended.

    The value of a cell is the expected ``PATIENCE ** steps`` at the goal. Of equal directions the first one counts.
    """
    chances = slips(success_rate)
    ends = lake.holes | {lake.goal}
    cells = [cell for cell in range(lake.size**2) if cell not in ends]
    ways = {
        cell: [[(chance, lake.move(cell, (way + turn) % 4)) for turn, chance in chances] for way in range(4)]
        for cell in cells
    }
    values = [0.0] * lake.size**2
    values[lake.goal] = 1.0
    change = 1.0
    while change > PRECISION:
        change = 0.0
        for cell in cells:
            value = PATIENCE * max(_worth(way, values) for way in ways[cell])
            change = max(change, abs(value - values[cell]))
            values[cell] = value
    best = [0] * lake.size**2
    for cell in cells:
        worths = [_worth(way, values) for way in ways[cell]]
        best[cell] = next(way for way, worth in enumerate(worths) if worth > max(worths) - PRECISION)
    return tuple(best)


def _worth(way: list[tuple[float, int]], values: list[float]) -> float:
    return sum(chance * values[cell] for chance, cell in way)


def demonstrate(
    lake: Lake, player: int, success_rate: float, most: int, noise: float, rng: random.Random
) -> tuple[str, tuple[str, ...]]:
    """Return where the goal is, and the best steps from here; a share ``noise`` of them is random.

    On slippery ice it is one step: where the next one begins is not known.
    """
    best, names = best_directions(lake, success_rate), list[str]()
    thought = f"goal is {_way(lake, player)}"
    while len(names) < (most if success_rate == 1 else 1) and player != lake.goal and player not in lake.holes:
        direction = rng.randrange(4) if rng.random() < noise else best[player]
        names.append(ACTIONS[direction])
        player = lake.move(player, direction)
    return thought, tuple(names)


def _way(lake: Lake, player: int) -> str:
    (row, column), (goal_row, goal_column) = divmod(player, lake.size), divmod(lake.goal, lake.size)
    vertical = ["Down" if goal_row > row else "Up"] if goal_row != row else []
    horizontal = ["Right" if goal_column > column else "Left"] if goal_column != column else []
    return " ".join(vertical + horizontal)
