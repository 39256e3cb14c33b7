"""The toy games of Gymnasium in words: FrozenLake, CliffWalking, Taxi, Blackjack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from .game import Game


def _map(rows: Sequence[str], row: int, column: int) -> str:
    """Draw a map with the player P on it, and say where the player is."""
    drawn = [list(line) for line in rows]
    drawn[row][column] = "P"
    return "\n".join(["".join(line) for line in drawn]) + f"\nYou are in row {row}, column {column}."


@attrs.frozen
class FrozenLakeGame(Game):
    """FrozenLake as a map of letters."""

    names: tuple[str, ...] = ("Left", "Down", "Right", "Up")
    least_reward: float | None = None

    def describe(self, env: Any) -> str:
        slippery = any(len(outcomes) > 1 for ways in env.unwrapped.P.values() for outcomes in ways.values())
        slips = " The ice is slippery: a step may go to one side instead." if slippery else ""
        return (
            f"You cross a frozen lake: reach the goal and do not fall into a hole.{slips}\n"
            "Symbols: P you, S start, F ice, H hole, G goal. Rows and columns count from 0 at the top left."
        )

    def show(self, env: Any, observed: Any) -> str:
        rows = [b"".join(line).decode() for line in env.unwrapped.desc.tolist()]
        return _map(rows, *divmod(int(observed), len(rows[0])))

    def won(self, env: Any, reward: float) -> bool:
        return bool(env.unwrapped.desc.flat[int(env.unwrapped.s)] == b"G")


@attrs.frozen
class CliffWalkingGame(Game):
    """CliffWalking as a map of letters."""

    names: tuple[str, ...] = ("Up", "Right", "Down", "Left")

    def describe(self, env: Any) -> str:
        slips = " The ground is slippery: a step may go to one side instead." if env.unwrapped.is_slippery else ""
        return (
            "Walk along a cliff from the start to the goal in as few steps as you can. A step costs 1; a fall from the "
            f"cliff costs 100 and brings you back to the start.{slips}\n"
            "Symbols: P you, S start, . ground, C cliff, G goal. Rows and columns count from 0 at the top left."
        )

    def show(self, env: Any, observed: Any) -> str:
        rows, columns = env.unwrapped.shape
        cliff = "".join(["C" if edge else "." for edge in env.unwrapped._cliff.flat])
        lines = [cliff[row * columns : (row + 1) * columns] for row in range(rows)]
        lines[-1] = f"S{lines[-1][1:-1]}G"
        return _map(lines, *divmod(int(observed), columns))

    def won(self, env: Any, reward: float) -> bool:
        return True  # nothing else terminates


@attrs.frozen
class TaxiGame(Game):
    """Taxi as a map of characters, with the places in words."""

    names: tuple[str, ...] = ("South", "North", "East", "West", "Pickup", "Dropoff")

    _PLACES = ("R", "G", "Y", "B")

    def describe(self, env: Any) -> str:
        return (
            "You drive a taxi: go to the passenger, pick the passenger up, drive to the destination and drop the "
            "passenger off there. A step costs 1, picking up or dropping off in a wrong place costs 10, and the right "
            "drop-off pays 20.\n"
            "Symbols: T taxi, R G Y B the four places, | wall. A colon is no wall. "
            "Rows and columns count from 0 at the top left."
        )

    def show(self, env: Any, observed: Any) -> str:
        row, column, passenger, destination = (int(each) for each in env.unwrapped.decode(int(observed)))
        drawn = [[cell.decode() for cell in line] for line in env.unwrapped.desc.tolist()]
        drawn[row + 1][2 * column + 1] = "T"
        rider = "in the taxi" if passenger == len(self._PLACES) else f"at {self._place(env, passenger)}"
        return "\n".join(["".join(line) for line in drawn]) + (
            f"\nThe taxi is in row {row}, column {column}. The passenger is {rider}. "
            f"The destination is {self._place(env, destination)}."
        )

    def _place(self, env: Any, number: int) -> str:
        row, column = env.unwrapped.locs[number]
        return f"{self._PLACES[number]} (row {row}, column {column})"

    def won(self, env: Any, reward: float) -> bool:
        return True  # nothing else terminates


@attrs.frozen
class BlackjackGame(Game):
    """Blackjack in words."""

    names: tuple[str, ...] = ("Stick", "Hit")
    least_reward: float | None = -1.0

    def describe(self, env: Any) -> str:
        return (
            "You play Blackjack against a dealer. Hit takes another card, and Stick ends your turn. Whoever is nearer "
            "to 21 wins, and more than 21 loses. Face cards count 10, an ace 11 or 1."
        )

    def show(self, env: Any, observed: Any) -> str:
        total, dealer, ace = (int(each) for each in observed)
        soft = ", with an ace that counts 11" if ace else ""
        return f"You have {total}{soft}. The dealer shows {'an ace' if dealer == 1 else dealer}."


TOYS: dict[str, Game] = {
    "FrozenLake": FrozenLakeGame(),
    "FrozenLake8x8": FrozenLakeGame(),
    "CliffWalking": CliffWalkingGame(),
    "CliffWalkingSlippery": CliffWalkingGame(),
    "Taxi": TaxiGame(),
    "Blackjack": BlackjackGame(),
}
"""Games by the name in their id, before ``-v``."""
