"""A server of OpenEnv: ``python openenv_server.py PORT SESSIONS [GAME ...]`` serves each game under its name.

They end, fail, hang or talk nonsense where their name, or the seed, says so.
"""

from __future__ import annotations

import os
import random
import sys
import time
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from fastmcp import FastMCP
from openenv.core.env_server import Action, Environment, MCPEnvironment, Observation, State, create_app
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import EnvironmentMetadata
from openenv_worlds import DIES, DRIFTS, HANGS, RAISES, RUBBISH
from pydantic import Field


class GuessAction(Action):
    guess: str = Field(max_length=20)
    remark: str = ""


class GuessObservation(Observation):
    text: str = ""
    tries: Any = 0


class GuessState(State):
    number: int = 0


class Guess(Environment):
    """Find the number."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self.seed, self.number, self.tries = 0, 0, 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, largest: int = 50) -> GuessObservation:
        self.seed, self.tries = seed or 0, 0
        rng = random.Random(seed)
        low = rng.randrange(100)
        self.number = rng.randint(low, low + largest)
        return GuessObservation(text=f"A number from {low} to {low + largest}.", tries=0)

    def step(self, action: GuessAction, timeout_s: float | None = None, **kwargs: Any) -> GuessObservation:
        self.tries += 1
        guess = int(action.guess)
        if guess == self.number:
            return GuessObservation(text="Yes.", tries=self.tries, reward=1.0, done=True)
        return GuessObservation(text="higher" if guess < self.number else "lower", tries=self.tries, reward=-0.1)

    @property
    def state(self) -> GuessState:
        return GuessState(number=self.number, step_count=self.tries)

    def get_metadata(self) -> EnvironmentMetadata:
        return EnvironmentMetadata(name="guess", description="Find a number.", version="1.0")


class Seedless(Guess):
    """A game whose reset takes no seed."""

    def reset(self, episode_id: str | None = None) -> GuessObservation:  # type: ignore[override]
        return super().reset(random.SystemRandom().randrange(10**9))


class Hidden(Seedless):
    """A game that ignores its seed, which its first observation does not show."""

    def reset(self, episode_id: str | None = None) -> GuessObservation:  # type: ignore[override]
        super().reset()
        return GuessObservation(text="Guess.")


class Same(Guess):
    """A game that starts alike for all seeds."""

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> GuessObservation:  # type: ignore[override]
        return super().reset(5)


class Drifting(Guess):
    """A game whose start depends on the time for one seed only."""

    def reset(self, seed: int | None = None, episode_id: str | None = None) -> GuessObservation:  # type: ignore[override]
        return super().reset(time.time_ns() if seed == DRIFTS else seed)


class Faulty(Guess):
    """A game that any text is a guess in, and that goes wrong for some seeds."""

    def step(self, action: GuessAction, timeout_s: float | None = None, **kwargs: Any) -> GuessObservation:
        self.tries += 1
        if self.seed == HANGS:
            time.sleep(60)
        if self.seed == RAISES:
            raise ValueError("no such guess")
        if str(self.seed) == os.environ.get(DIES):
            os._exit(1)
        if self.seed == RUBBISH:
            return GuessObservation.model_construct(text="?", tries=0, reward="much", done=False, metadata={})
        return GuessObservation(text="no", tries=self.tries, reward=float(len(action.guess) % 3))


class MoveAction(Action):
    move: Literal["left", "right"]


class CellAction(Action):
    cell: int = Field(ge=0, le=8)
    player: str


class Moves(Guess):
    """A game with two moves."""

    def step(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> GuessObservation:
        return GuessObservation(text=str(action.model_dump(exclude={"metadata"})), reward=1.0, done=True)


class Safe(MCPEnvironment):
    """A safe that is opened with tools."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        tools = FastMCP("safe")
        self.code, self.turns = 0, 0

        @tools.tool
        def turn(number: int) -> str:
            """Turn the dial.

            Args:
                number: The number to stop at.
            """
            self.turns += 1
            if not 0 <= number < 10:
                raise ValueError("the dial has the numbers 0 to 9")
            return "It opens." if number == self.code else "higher" if number < self.code else "lower"

        @tools.tool
        def read_note() -> dict[str, int]:
            """Read the note on the safe."""
            return {"numbers": 10}

        super().__init__(tools)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.code, self.turns = (seed or 0) % 10, 0
        return Observation()

    async def step_async(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        observation = await super().step_async(action, timeout_s, **kwargs)
        if isinstance(observation, CallToolObservation) and "It opens." in str(observation.result):
            observation.done, observation.reward = True, 1.0
        return observation

    def _step_impl(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        return Observation()

    @property
    def state(self) -> State:
        return State(step_count=self.turns)


GAMES: dict[str, tuple[Any, Any, Any]] = {
    "guess": (Guess, GuessAction, GuessObservation),
    "seedless": (Seedless, GuessAction, GuessObservation),
    "hidden": (Hidden, GuessAction, GuessObservation),
    "same": (Same, GuessAction, GuessObservation),
    "drifting": (Drifting, GuessAction, GuessObservation),
    "faulty": (Faulty, GuessAction, GuessObservation),
    "moves": (Moves, MoveAction, GuessObservation),
    "cells": (Moves, CellAction, GuessObservation),
    "safe": (Safe, CallToolAction, CallToolObservation),
}


def main() -> None:
    port, sessions, only = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    app = FastAPI()
    for name in only or GAMES:
        app.mount(f"/{name}", create_app(*GAMES[name], env_name=name, max_concurrent_envs=sessions))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")


if __name__ == "__main__":
    main()
