"""The environment variable LOCAL_RANK, which DeepSpeed reads as long as one of its engines lives.

It must not stay: accelerate takes a process that has it for one of several, and sets RANK and WORLD_SIZE for whatever
the process starts next.
"""

from __future__ import annotations

import os

NAME = "LOCAL_RANK"
_engines = 0
_ours = False


def lend(local_rank: int) -> None:
    """Set it for one engine more, unless a launcher has set it."""
    global _engines, _ours
    _engines += 1
    if NAME not in os.environ:
        os.environ[NAME] = str(local_rank)
        _ours = True


def take_back() -> None:
    """Forget it once no engine is left, if we have set it."""
    global _engines, _ours
    _engines = max(0, _engines - 1)
    if _engines == 0 and _ours:
        os.environ.pop(NAME, None)
        _ours = False
