"""Start a script on several ranks of this machine."""

import os
import subprocess
import sys

from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.processes.rank_processes import free_port


def backend(stage):
    """The backend; under ZeRO 3 one that lets go of every weight, which DeepSpeed does not with such small ones."""
    zero = {"stage3_param_persistence_threshold": 0, "stage3_max_reuse_distance": 0}
    return DeepSpeed({"zero_optimization": zero} if stage == 3 else {})


def launch(script, *arguments, ranks=2):
    """Wait for every rank, and show what one wrote to stderr if it failed."""
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = {**os.environ, **place}
    processes = [
        subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-3000:]
