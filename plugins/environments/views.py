"""Grid worlds are shown as a map of symbols, as lists of coordinates, or as both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def coordinates(cells: Iterable[int], width: int) -> str:
    """Write row-major cell numbers as ``(row, column), ...``."""
    return ", ".join([f"({cell // width}, {cell % width})" for cell in cells])


def observation(view: str, grid: str, coord: str) -> str:
    """Choose what is shown in the view ``grid``, ``coord`` or ``grid_coord``."""
    if view == "grid_coord":
        return f"Coordinates:\n{coord}\nGrid Map:\n{grid}"
    return grid if view == "grid" else coord


def legend(view: str, meanings: Mapping[str, str], height: int, width: int) -> str:
    """Explain a view for the instruction: the symbols of its map, the bounds of its coordinates."""
    lines = []
    if "grid" in view:
        lines.append("Symbols: " + ", ".join([f"{symbol} {meaning}" for symbol, meaning in meanings.items()]) + ".")
    if "coord" in view:
        lines.append(
            f"Cells are (row, column), from (0, 0) at the top left to ({height - 1}, {width - 1}) at the bottom right: "
            "Down raises the row, Right raises the column."
        )
    return "\n".join(lines)
