"""Train from Python: components as instances, a callback at every step, more steps, and a sweep as a table.

    python examples/compose_in_python.py [RUN_DIR]

The model is a tiny Qwen2 that is built on the spot; the five short runs take a minute on a laptop.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import uncollapse
from uncollapse.estimators.advantage.outcome import Grpo
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.filters.top_p import TopP
from uncollapse.plugins.collapse.entropy import EntropyCollapse
from uncollapse.plugins.experiments.cloned_qwen2 import ClonedQwen2

COLUMNS = {"reward": "train/reward", "entropy": "actor/entropy", "gradient": "actor/grad_norm"}

# %% An experiment: what differs from a registered one. Wherever a name could stand, an instance may.
EXPERIMENT = {
    "extends": "tiny-sokoban",
    "model": {"build": ClonedQwen2(steps=60)},
    "rollout": {"groups": 4, "group_size": 4},
    "filter": {"select": TopP(0.9), "metric": "reward_variance"},
    "advantage": Grpo(),
    "policy_loss": Ppo(clip_low=0.2, clip_high=0.28),
    "collapse": [EntropyCollapse(window=5)],
    "validation": {"groups": 8, "every": 2},
    "trainer": {"steps": 2, "mini_batch": 8},
    "trackers": ["jsonl"],
}


# %% A callback: any object with methods that are named as runtime hooks.
class Table:
    """Keeps a row for each step."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    @uncollapse.hookimpl
    def step_finished(self, step, metrics):
        self.rows.append((step, {name: metrics[key] for name, key in COLUMNS.items() if key in metrics}))

    def __str__(self) -> str:
        lines = ["  ".join(f"{name:>9}" for name in ("step", *COLUMNS))]
        for step, row in self.rows:
            cells = [f"{row[name]:9.3f}" if name in row else f"{'-':>9}" for name in COLUMNS]
            lines.append("  ".join([f"{step:>9}", *cells]))
        return "\n".join(lines)


# %% Training takes the composed experiment, a directory and callbacks.
def main(run_dir: Path) -> None:
    table = Table()
    outcome = uncollapse.train(uncollapse.compose(EXPERIMENT), run_dir, callbacks=[table])
    print(table)
    print(f"{outcome.status} after {len(table.rows)} records in {run_dir}")
    longer(run_dir)
    compared(run_dir.with_name("sweep"))


# %% A finished run goes on to another step, as if it had been planned so.
def longer(run_dir: Path) -> None:
    outcome = uncollapse.train(uncollapse.compose(EXPERIMENT), run_dir, resume=True, steps=3)
    print(f"{outcome.status} after {len(uncollapse.RunDirectory(run_dir).metrics())} records")


# %% A sweep gives its results as rows; with pandas, result.to_pandas() is a DataFrame.
def compared(directory: Path) -> None:
    result = uncollapse.Sweep(EXPERIMENT, axes={"kl.coef": [0.0, 0.01]}, name="kl").run(directory, slots=1)
    print(result)
    for row in result.rows():
        print(row["kl.coef"], row["seed"], row["status"], row["validation/success"])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(Path(sys.argv[1] if sys.argv[1:] else folder) / "run")
