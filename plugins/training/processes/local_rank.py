"""The environment variable LOCAL_RANK, which DeepSpeed reads as long as one of its engines lives.

It must not stay: accelerate takes a process that has it for one of several, and sets RANK and WORLD_SIZE for whatever
the process starts next.
"""

from __future__ import annotations

import os

NAME = "LOCAL_RANK"


def lend(local_rank: int) -> bool:
    """Set it, unless a launcher or another engine has; whether it was set, and so is to be taken back."""
    if NAME in os.environ:
        return False
    os.environ[NAME] = str(local_rank)
    return True


def take_back(lent: bool) -> None:
    """Forget it, where it was lent. The engine that was started first must be the last to be closed."""
    if lent:
        os.environ.pop(NAME, None)
