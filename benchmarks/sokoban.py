"""Sokoban is timed against gym-sokoban 0.0.6: rooms and steps per second, in one process, same sizes and seeds.

    pip install --target /tmp/peer gym-sokoban==0.0.6 gym imageio tqdm pillow numpy
    python benchmarks/sokoban.py --peer /tmp/peer

A step of ours includes the text that the agent reads. A step of gym-sokoban renders a picture, as RAGEN calls it; the
row "tiny picture" is its cheapest mode, which RAGEN does not use. gym-sokoban imports pkg_resources, which recent
setuptools no longer have: the one function that it calls is provided here. It needs no other change.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import random
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uncollapse.plugins.environments.sokoban import Sokoban

SIZES = ((6, 1), (8, 2))
NEEDED = {"rooms": 5, "steps": 50}


def peer(directory: str | None) -> tuple[Any, Any]:
    """gym-sokoban's environment class and numpy, whose random state its rooms depend on."""
    if directory:
        sys.path.append(directory)
    if importlib.util.find_spec("pkg_resources") is None:
        resources = types.ModuleType("pkg_resources")
        resources.resource_filename = _resource_filename  # type: ignore[attr-defined]
        sys.modules["pkg_resources"] = resources
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import numpy as np
    from gym_sokoban.envs.sokoban_env import SokobanEnv

    return SokobanEnv, np


def _resource_filename(module: str, name: str) -> str:
    return str(Path(sys.modules[module].__file__ or "").parent / name)


def per_second(work: Callable[[], object], seconds: float) -> float:
    """Calls per second of processor time, which other jobs on the machine disturb least."""
    calls, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        work()
        calls += 1
    return calls / elapsed


def our_rates(size: int, boxes: int, seconds: float) -> dict[str, float]:
    environment = Sokoban(size=size, boxes=boxes, view="grid_coord", max_steps=10**9)
    seeds = itertools.count(10_000)
    steps = play(environment)
    return {
        "rooms": per_second(lambda: environment.make(next(seeds)).initial_observation(), seconds),
        "steps": per_second(lambda: next(steps), seconds),
    }


def play(environment: Sokoban) -> Iterator[object]:
    """Random steps; a new room (from the few that are cached by then) when one is solved."""
    rng = random.Random(0)
    while True:
        env, done = environment.make(10_000 + rng.randrange(50)), False
        while not done:
            step = env.step(rng.choice(environment.actions))
            done = step.done
            yield step


def peer_rates(size: int, boxes: int, seconds: float, environment: Any, np: Any) -> dict[str, float]:
    seeds = itertools.count(10_000)

    def reset() -> None:
        seed = next(seeds)
        random.seed(seed)
        np.random.seed(seed)
        env.reset()

    random.seed(0)
    np.random.seed(0)
    env = environment(dim_room=(size, size), num_boxes=boxes, max_steps=10**9)
    rng = random.Random(0)
    rates = {"rooms": per_second(reset, seconds)}
    rates["steps"] = per_second(lambda: env.step(rng.randint(1, 4)), seconds)
    rates["steps, tiny picture"] = per_second(lambda: env.step(rng.randint(1, 4), "tiny_rgb_array"), seconds)
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="DIR", help="where gym-sokoban is installed, if not in this environment")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each rate")
    arguments = parser.parse_args()
    environment, np = peer(arguments.peer)

    failed = False
    print(f"{'room':<14}{'per second':<22}{'uncollapse':>12}{'gym-sokoban':>13}{'ratio':>8}{'needed':>8}")
    for size, boxes in SIZES:
        ours = our_rates(size, boxes, arguments.seconds)
        for what, theirs in peer_rates(size, boxes, arguments.seconds, environment, np).items():
            rate = ours[what.split(",")[0]]
            needed = NEEDED.get(what, 1)
            failed |= rate < needed * theirs
            room = f"{size}x{size}, {boxes} box"
            print(f"{room:<14}{what:<22}{rate:>12,.0f}{theirs:>13,.0f}{rate / theirs:>8,.0f}{needed:>8}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
