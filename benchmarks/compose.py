"""Composing and hashing 10,000 points of a sweep, beside composing each point on its own.

Run: python benchmarks/compose.py
"""

from __future__ import annotations

import time

from uncollapse.core.compose.config import compose
from uncollapse.core.compose.identity import config_hash
from uncollapse.plugins.sweeps.points import expand

AXES = {
    "kl.coef": [index / 1000 for index in range(20)],
    "filter.select": [f"top_p({(index + 1) / 10})" for index in range(10)],
    "entropy_coeff": [index / 100 for index in range(10)],
    "seed": list(range(5)),
}
SAMPLE = 100
LIMIT_S = 2.0


def main() -> None:
    base = compose("tiny-sokoban")  # the imports are not the subject
    started = time.perf_counter()
    points = expand("tiny-sokoban", AXES)
    together_s = time.perf_counter() - started
    sample = points[:: len(points) // SAMPLE]
    started = time.perf_counter()
    hashes = [config_hash(compose(base, point.overrides)) for point in sample]
    alone_s = (time.perf_counter() - started) / len(sample) * len(points)
    assert hashes == [point.hash for point in sample]
    print(f"points                         {len(points)}")
    print(f"composed and hashed together   {together_s:.2f} s (limit {LIMIT_S:.0f} s)")
    print(f"each on its own                {alone_s:.1f} s (from {len(sample)} of them)")
    print(f"ratio                          {alone_s / together_s:.0f}x")


if __name__ == "__main__":
    main()
