"""Runs side by side on one GPU each have an equal share of it: how many fit, and what to change where too few do."""

from __future__ import annotations

from collections.abc import Sequence

from ....core.errors import RequestError
from .fitting import GIB, Request, describe, fixes, suggestions

MIB = 2**20
MOST = 64
"""Most runs on one GPU that are tried."""


def share_of(memory: int, runs: int) -> int:
    """Return the bytes that each of ``runs`` runs may take of a GPU of ``memory`` bytes, in whole MiB if possible."""
    share = memory // runs
    return share // MIB * MIB or share


def most_runs(requests: Sequence[Request], memory: int) -> int:
    """Return how many runs fit side by side on a GPU of ``memory`` bytes, any of ``requests``; 0 if not even one.

    Fewer fit as well: an engine takes a part of the share, and all else is the same in a larger one.
    """
    most = MOST
    for request in requests:
        low, high = 0, most + 1  # low fits, and high does not
        tried = most
        while high - low > 1:
            if request.holds(share_of(memory, tried)):
                low = tried
            else:
                high = tried
            tried = (low + high) // 2
        most = low
    return most


def require_runs(named: Sequence[tuple[str, Request]], runs: int, memory: int, option: str = "--per-gpu") -> None:
    """Check that ``runs`` runs at a time fit a GPU of ``memory`` bytes, whichever of ``named`` they are.

    Args:
        named: the requests with names for people; empty names are not shown.
        runs: the number of runs on each GPU.
        memory: the bytes of the smallest GPU that may be shared out.
        option: what the number was given with, for messages.

    Raises:
        RequestError: they do not fit; the message says how many do, and names settings with which all do.
    """
    share = share_of(memory, runs)
    small = [(name, request) for name, request in named if not request.holds(share)]
    if not small:
        return
    name, request = max(small, key=lambda each: each[1].plan(share).fullest.total)
    plan = request.plan(share)
    phase, usable = plan.fullest, request.usable(share)
    most = most_runs([each for _, each in named], memory)
    if plan.shortage is not None and phase.total <= usable:
        what = f"its engine's part of it does not hold weights and one row, {plan.shortage.need / GIB:.1f} GiB"
    else:
        what = f"it may fill {usable / GIB:.1f} GiB of it, and needs {phase.total / GIB:.1f} GiB"
    them = "1 run does" if runs == 1 else f"{runs} runs side by side do"
    others = f", and {len(small) - 1} more of {len(named)}" if len(small) > 1 else ""
    raise RequestError(
        f"{them} not fit a GPU with {memory / GIB:.1f} GiB: the share of each is {share / GIB:.1f} GiB; {what}",
        f"{name + others + ': ' if name else ''}{phase.name}: {describe(phase)}",
        fixes(suggestions(request, share), *([f"{option} {most}, the most that fit"] if most else [])),
    )
