"""DeepSpeed reads the environment variable LOCAL_RANK as long as one of its engines lives.

The variable must not stay after that: accelerate takes a process that has it for one of several, and sets RANK and
WORLD_SIZE for whatever the process starts next.
"""

from __future__ import annotations

import os

NAME = "LOCAL_RANK"


def lend(local_rank: int) -> bool:
    """Set LOCAL_RANK if nobody else has; return whether it was set, and so must be taken back later."""
    if NAME in os.environ:
        return False
    os.environ[NAME] = str(local_rank)
    return True


def take_back(lent: bool) -> None:
    """Remove LOCAL_RANK if ``lent`` says that it was set. The engine that started first must be closed last."""
    if lent:
        os.environ.pop(NAME, None)
