"""The rules of FrozenLake: what a lake holds, and where steps lead."""

from __future__ import annotations

import attrs

from .views import coordinates

ACTIONS = ("Left", "Down", "Right", "Up")
"""Actions in turning order: the two neighbours of an action are perpendicular to it."""
_STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))


@attrs.frozen
class Lake:
    """A lake is a square of ice; cells are row-major numbers."""

    size: int
    """Number of rows, and of columns."""
    start: int
    """Cell on which the player begins."""
    goal: int
    """Cell that the player must reach."""
    holes: frozenset[int]
    """Cells that end the episode without success."""

    @property
    def key(self) -> str:
        """Content as text, rows joined by ``/``: equal for equal lakes only."""
        return self.grid(self.start).replace("\n", "/")

    def move(self, player: int, direction: int) -> int:
        """Return the cell after a step towards ``ACTIONS[direction]``; the edge of the lake holds the player back."""
        row, column = divmod(player, self.size)
        down, right = _STEPS[direction]
        row = min(max(row + down, 0), self.size - 1)
        column = min(max(column + right, 0), self.size - 1)
        return row * self.size + column

    def reachable(self) -> bool:
        """Say whether a path leads from the start to the goal around the holes."""
        visited = {self.start}
        frontier = [self.start]
        while frontier:
            player = frontier.pop()
            new = {self.move(player, direction) for direction in range(4)} - self.holes - visited
            visited |= new
            frontier.extend(new)
        return self.goal in visited

    def grid(self, player: int) -> str:
        """Show the lake as a map of symbols."""
        symbols = ["O" if cell in self.holes else "_" for cell in range(self.size**2)]
        symbols[self.goal] = "G"
        if player in self.holes:
            symbols[player] = "X"
        else:
            symbols[player] = "√" if player == self.goal else "P"
        return "\n".join(["".join(symbols[row * self.size : (row + 1) * self.size]) for row in range(self.size)])

    def coord(self, player: int) -> str:
        """Show the lake as lists of coordinates."""
        label_of_player = "Player"
        if player in self.holes:
            label_of_player = "Player in hole"
        elif player == self.goal:
            label_of_player = "Player on goal"
        lines = {"Start": [self.start], "Goal": [self.goal], label_of_player: [player], "Holes": sorted(self.holes)}
        return "\n".join([f"{label}: {coordinates(cells, self.size)}" for label, cells in lines.items() if cells])


def slips(success_rate: float) -> tuple[tuple[int, float], ...]:
    """Return the turns of a step, as steps along ``ACTIONS``, with their probabilities."""
    aside = (1 - success_rate) / 2
    return (0, success_rate), (-1, aside), (1, aside)
