"""The composition and hashing of 10,000 points of a sweep is timed, beside the largest sweep that is registered.

Run: python benchmarks/compose.py
"""

from __future__ import annotations

import time

from uncollapse.core.compose.config import compose
from uncollapse.plugins.sweeps.points import expand

AXES = {
    "kl.coef": [index / 1000 for index in range(20)],
    "filter.select": [f"top_p({(index + 1) / 10})" for index in range(10)],
    "entropy_coeff": [index / 100 for index in range(10)],
    "seed": list(range(5)),
}
LARGEST = 164
"""Points of the largest registered sweep."""
LIMIT_S = 30.0


def main() -> None:
    started = time.perf_counter()
    compose("tiny-sokoban")
    first_s = time.perf_counter() - started  # with the imports, and with what cattrs compiles for each class
    started = time.perf_counter()
    points = expand("tiny-sokoban", AXES)
    all_s = time.perf_counter() - started
    print(f"the first experiment          {first_s:.2f} s")
    print(f"points                        {len(points)}")
    print(f"composed and hashed           {all_s:.1f} s (limit {LIMIT_S:.0f} s)")
    print(f"each                          {1000 * all_s / len(points):.2f} ms")
    print(f"a sweep of {LARGEST} points        {all_s * LARGEST / len(points):.2f} s")


if __name__ == "__main__":
    main()
