"""``uncollapse`` on a rank of another machine: its arguments come as the one word of ``processes.launch.pack``."""

from __future__ import annotations

import os
import sys

from ..plugins.training.processes.launch import SEVERAL_HOSTS, unpack
from ..plugins.training.processes.rank_processes import LAUNCHER
from .main import main

if __name__ == "__main__":
    arguments, environment = unpack(sys.argv[1])
    os.environ.update(environment | {LAUNCHER: SEVERAL_HOSTS})
    main(arguments, prog_name="uncollapse")
