"""How grid worlds are shown: a map of symbols, lists of coordinates, or both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def coordinates(cells: Iterable[int], width: int) -> str:
    """``(row, column), ...`` of row-major cell numbers."""
    return ", ".join([f"({cell // width}, {cell % width})" for cell in cells])


def observation(view: str, grid: str, coord: str) -> str:
    """What the agent sees in the view ``grid``, ``coord`` or ``grid_coord``."""
    if view == "grid_coord":
        return f"Coordinates:\n{coord}\nGrid Map:\n{grid}"
    return grid if view == "grid" else coord


def legend(view: str, meanings: Mapping[str, str], height: int, width: int) -> str:
    """What the instruction says of a view: the symbols of its map, the bounds of its coordinates."""
    lines = []
    if "grid" in view:
        lines.append("Symbols: " + ", ".join([f"{symbol} {meaning}" for symbol, meaning in meanings.items()]) + ".")
    if "coord" in view:
        lines.append(
            f"Cells are (row, column), from (0, 0) at the top left to ({height - 1}, {width - 1}) at the bottom right: "
            "Down raises the row, Right raises the column."
        )
    return "\n".join(lines)
