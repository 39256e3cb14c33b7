"""The benchmarks of the probe share one checkpoint, a LoRA adapter over the start model of tiny-sokoban."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SETTINGS = (
    "model.lora={rank: 8}",
    "trainer.steps=4",
    "trainer.save_every=4",
    "trainer.lr=2e-3",
    "validation.before_train=false",
)


def train(directory: Path) -> Path:
    """Four steps of tiny-sokoban with LoRA, saved with the state of Adam; ``directory`` is the run's."""
    command = [sys.executable, "-m", "uncollapse.cli.main", "train", "tiny-sokoban", "--run-dir", str(directory)]
    for setting in SETTINGS:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"training the checkpoint: exit code {result.returncode}\n{result.stderr[-2000:]}")
    return directory


def load() -> str:
    return ", ".join(f"{value:.1f}" for value in os.getloadavg())
