"""The plugin of environments registers the built-in ones."""

from __future__ import annotations

from ...core.hookspecs import Register, hookimpl

_HERE = "uncollapse.plugins.environments"


@hookimpl
def register_environments(register: Register) -> None:
    register(
        "sokoban",
        f"{_HERE}.sokoban:Sokoban",
        summary="push every box onto a target, in rooms proved to be solvable (6x6, 1 box, map and coordinates)",
        aliases=("sokoban_coord",),
    )
    register("sokoban_simple", f"{_HERE}.sokoban:SokobanSimple", summary="sokoban 6x6 with one box, as a map")
    register("sokoban_larger", f"{_HERE}.sokoban:SokobanLarger", summary="sokoban 8x8 with two boxes, as a map")
    register("frozen_lake", f"{_HERE}.frozen_lake:FrozenLake", summary="reach the goal on slippery ice with holes")
    register("bandit", f"{_HERE}.bandit:Bandit", summary="choose once between a steady and a risky arm")
    register("countdown", f"{_HERE}.countdown:Countdown", summary="make a target out of 3 or 4 numbers")
    register(
        "dataset", f"{_HERE}.dataset:Dataset", summary="answer the questions of a data set (file, hub, arithmetic)"
    )
    register(
        "reasoning_gym",
        f"{_HERE}.packages.reasoning_gym.environment:ReasoningGym",
        summary="answer the questions that the package reasoning_gym generates, scored by it",
    )
    register(
        "gymnasium",
        f"{_HERE}.packages.gymnasium.environment:Gymnasium",
        summary="play FrozenLake, Taxi, CliffWalking, Blackjack and other discrete games of the package gymnasium",
    )
    register(
        "minigrid",
        f"{_HERE}.packages.gymnasium.minigrid:MiniGrid",
        summary="fulfil missions in the grid worlds of the package minigrid (MiniGrid, BabyAI)",
    )
    register(
        "textarena",
        f"{_HERE}.packages.textarena.environment:TextArena",
        summary="play games of the package textarena, alone, against chance or a frozen model",
    )
    register(
        "openenv",
        f"{_HERE}.packages.openenv.environment:OpenEnv",
        summary="play the environment of an OpenEnv server, with texts or with its tools",
    )
    register(
        "verifiers",
        f"{_HERE}.packages.verifiers.environment:Verifiers",
        summary="play environments of the package verifiers: their tasks, tools and rewards",
    )
    register(
        "tool_calculator",
        f"{_HERE}.tools.tool_calculator:ToolCalculator",
        summary="calculate with a tool that must be called twice (dialogue tool_calls)",
    )
    register(
        "tool_lookup",
        f"{_HERE}.tools.tool_lookup:ToolLookup",
        summary="look numbers up in notes, then calculate with them: two tools in turn (extra search)",
    )
    register(
        "with_tools",
        f"{_HERE}.tools.with_tools:WithTools",
        summary="any other environment, with tool sets that can be called: calculator, python, search",
    )


@hookimpl
def register_toolsets(register: Register) -> None:
    register("calculator", f"{_HERE}.tools.calculator:Calculator", summary="exact arithmetic")
    register(
        "search",
        f"{_HERE}.tools.search:Search",
        summary="find passages of a local corpus by their words, BM25 (extra search)",
    )
    register("python", f"{_HERE}.tools.python:Python", summary="run Python programs in a process that is shut in")
    register("mcp", f"{_HERE}.tools.mcp.mcp:Mcp", summary="the tools of an MCP server")
