"""Locks on files: they go with the process that has them, whatever ends it."""

from __future__ import annotations

import fcntl
from typing import IO


def take(file: IO[bytes], shared: bool = False) -> bool:
    """Lock an open file until it is closed, for oneself or, if ``shared``, beside others who share it.

    Returns:
        Whether the lock could be had at once.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
