"""``uncollapse`` on a rank of another machine: its arguments come as the one word of ``distributed.pack``."""

from __future__ import annotations

import os
import sys

from ..plugins.training.distributed import unpack
from .main import main

if __name__ == "__main__":
    arguments, environment = unpack(sys.argv[1])
    os.environ.update(environment)
    main(arguments, prog_name="uncollapse")
