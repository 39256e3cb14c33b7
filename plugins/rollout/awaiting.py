"""What an ``async def`` of an environment promises is awaited, on one event loop for the whole process."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import wait
from functools import lru_cache
from typing import Any

_PATIENCE_S = 0.2
"""The time in seconds after which a thread that waits looks whether it is interrupted."""


def settled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what ``function`` returns; where that is awaitable, wait for it and return its result.

    All are awaited on the same event loop, in a thread of its own, so that episodes may share a session of a client.
    They go on side by side there, however many threads wait. If this thread is interrupted, the task is cancelled.

    Raises:
        Exception: whatever ``function`` or what it awaits raises.
    """
    value = function(*arguments)
    if not inspect.isawaitable(value):
        return value
    with _LOCK:
        loop = _loop(os.getpid())
    future = asyncio.run_coroutine_threadsafe(_awaited(value), loop)
    try:
        # a lock that waits without end would keep an exception of another thread from being raised here
        while not wait([future], _PATIENCE_S).done:
            pass
    except BaseException:
        future.cancel()
        raise
    return future.result()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


@lru_cache(1)
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Start the event loop of this process. A fork has another number, and needs its own, since it has no threads."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="environments' event loop", daemon=True).start()
    return loop


_LOCK = threading.Lock()
