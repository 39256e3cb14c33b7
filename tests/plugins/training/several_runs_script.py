"""Run as one of several ranks: the experiments in a file train one after the other in this process."""

import json
import sys
from pathlib import Path

import torch
from uncollapse.core.errors import UncollapseError
from uncollapse.plugins.training.train import train

directory = Path(sys.argv[1])
experiments = json.loads((directory / "experiments.json").read_text("utf-8"))
linear = torch.nn.functional.linear
for name, experiment in experiments.items():
    try:
        train(experiment, directory / name)
    except UncollapseError as error:
        print(name, "failed:", error)
    assert torch.nn.functional.linear is linear, "a run has left its linear layer in torch"
