"""A lock on a file goes with the process that has it, whatever ends it."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def take(file: IO[Any], shared: bool = False, wait: bool = False) -> bool:
    """Lock an open file until it is closed, for oneself or, if ``shared``, beside others who share it.

    Returns:
        Whether the lock could be had, which is certain if this may ``wait`` for it.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
