"""The MCP servers that this process has started, and which episodes share."""

from __future__ import annotations

import atexit
import os
import threading
import time

from .....core.errors import EpisodeLostError, RequestError, RunError
from .connection import Connection
from .listing import Listing, listing_of
from .program import Program

_END_S = 5.0
"""The seconds that all servers together may take to end at the end of the process."""
_STARTED: dict[Program, Connection] = {}
_LISTED: dict[Program, Listing] = {}
_LOCK = threading.RLock()


def listing(program: Program) -> Listing:
    """Return what a program lists; it is started for it the first time.

    Raises:
        RequestError: it cannot be used.
    """
    with _LOCK:
        if program not in _LISTED:
            _STARTED[program] = connection = Connection(program)
            try:
                _LISTED[program] = listing_of(connection)
            except RequestError:
                _STARTED.pop(program).end()
                raise
        return _LISTED[program]


def connected(program: Program) -> Connection:
    """Return a running server for an episode. One that is not shared is the episode's own, which must end it.

    Raises:
        RequestError: it cannot be used.
        EpisodeLostError: it could be used, but does not start again.
        RunError: it has other tools than before.
    """
    with _LOCK:
        listing(program)
        running = _STARTED.get(program) if program.shared else _STARTED.pop(program, None)
        if running is not None and running.usable:
            return running
        if program.shared:
            _STARTED[program] = running = _another(program)
            return running
    return _another(program)


def _another(program: Program) -> Connection:
    """Start a program once more, and check that it lists the same tools."""
    try:
        connection = Connection(program)
    except RequestError as error:
        raise EpisodeLostError(error.what, error.where, error.fix) from error
    before, now = _LISTED[program].digest, listing_of(connection).digest
    if before != now:
        connection.end()
        raise RunError(f"the server is another one than before: {now}, not {before}", program.where, "use one server")
    return connection


def end_all() -> None:
    """End all servers that this process has started for episodes to share."""
    with _LOCK:
        running = list(_STARTED.values())
        _STARTED.clear()
        _LISTED.clear()
    for connection in running:
        connection.end()
    limit = time.monotonic() + _END_S
    for connection in running:
        connection.end(max(limit - time.monotonic(), 0.01))


def _forget() -> None:
    """Forget the servers of the process that this one was forked from."""
    global _LOCK
    _LOCK = threading.RLock()
    _STARTED.clear()
    _LISTED.clear()


os.register_at_fork(after_in_child=_forget)
atexit.register(end_all)
