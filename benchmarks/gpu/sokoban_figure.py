"""The figure of docs/gpu.md is drawn from the curves that ``sokoban.py`` writes.

python benchmarks/gpu/sokoban_figure.py benchmarks/results/gpu_sokoban.csv docs/images/gpu-sokoban.png
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

AROUND = 4
"""The entropy of a step is averaged with those of so many steps on either side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("figure", type=Path)
    options = parser.parse_args()
    runs: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    with options.curves.open(newline="") as lines:
        for line in csv.DictReader(lines):
            runs[line["filter"], line["seed"]].append(line)
    filters = list(dict.fromkeys(chosen for chosen, _ in runs))
    figure, (success, entropy) = plt.subplots(1, 2, figsize=(10, 3.8))
    for (chosen, seed), lines in runs.items():
        look = {"color": f"C{filters.index(chosen)}", "linestyle": "-" if seed == "0" else "--"}
        validated = [line for line in lines if line["validation/success"]]
        success.errorbar(
            [int(line["step"]) for line in validated],
            [float(line["validation/success"]) for line in validated],
            [float(line["validation/success_se"]) for line in validated],
            capsize=2,
            label=f"{chosen}, seed {seed}",
            **look,
        )
        known = [(int(line["step"]), float(line["actor/entropy"])) for line in lines if line["actor/entropy"]]
        means = [fmean(value for _, value in known[max(0, i - AROUND) : i + AROUND + 1]) for i in range(len(known))]
        entropy.plot([step for step, _ in known], means, **look)
    success.set_ylabel("success on unseen rooms ± standard error")
    success.legend()
    entropy.set_ylabel(f"entropy (nats/token), mean of {2 * AROUND + 1} steps")
    entropy.set_yscale("log")
    for axes in (success, entropy):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(options.figure, dpi=90)


if __name__ == "__main__":
    main()
