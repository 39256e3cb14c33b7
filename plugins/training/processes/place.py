"""The environment variables of a launcher say which process of its run this is."""

from __future__ import annotations

import os
import re
import socket

import attrs

from ....core.errors import RequestError

MOST = 1 << 16
"""Largest number of processes of a run."""
LAUNCHER = "a launcher sets it for each process; unset RANK, LOCAL_RANK and WORLD_SIZE to run a single one"


@attrs.frozen
class Place:
    """A place says which process of a run this is, and which GPU of its machine it uses."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes of the run."""
    local_rank: int
    """Number of the GPU on this machine, from 0."""


def read_place() -> Place:
    """Read RANK, WORLD_SIZE and LOCAL_RANK; without them, this is the only process.

    Raises:
        RequestError: one of them is missing, no whole number or out of range; or, with several processes, that is so
            of MASTER_ADDR or MASTER_PORT.
    """
    size = _number("WORLD_SIZE", 1, 1, MOST)
    if size > 1 and "RANK" not in os.environ:
        raise RequestError(f"WORLD_SIZE is {size}, and RANK is not set", "the environment", LAUNCHER)
    rank = _number("RANK", 0, 0, MOST)
    if rank >= size:
        raise RequestError(f"RANK is {rank}, and WORLD_SIZE is {size}", "the environment", "ranks count from 0")
    place = Place(rank, size, _number("LOCAL_RANK", 0, 0, MOST))
    if size > 1:
        if not os.environ.get("MASTER_ADDR"):
            raise RequestError(f"WORLD_SIZE is {size}, and MASTER_ADDR is not set", "the environment", LAUNCHER)
        if not _number("MASTER_PORT", 0, 1, 65535):
            raise RequestError(f"WORLD_SIZE is {size}, and MASTER_PORT is not set", "the environment", LAUNCHER)
    return place


def check_master() -> None:
    """Raise RequestError if MASTER_ADDR, where the processes meet, is no known host."""
    host = os.environ["MASTER_ADDR"]
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise RequestError(f"MASTER_ADDR is {host!r}, which is no known host", "the environment", LAUNCHER) from error


def _number(name: str, default: int, least: int, most: int) -> int:
    """Read a whole number from an environment variable, or return the default if it is not set."""
    text = os.environ.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}", text) or not least <= int(text) <= most:
        raise RequestError(
            f"{name} is {text[:80]!r}, and must be a whole number from {least} to {most}", "the environment", LAUNCHER
        )
    return int(text)
