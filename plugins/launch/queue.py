"""Every launcher works off one queue: a free slot takes the next job at once."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from .job import Job

POLL_S = 0.02
INSISTING = (signal.SIGINT, signal.SIGTERM)
"""Signals of which a second one moves on at once."""
SIGNALS = (*INSISTING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that interrupt: Ctrl-C, a closed terminal, and the warnings of batch systems, which would end the process."""
SlotT = TypeVar("SlotT")
HandleT = TypeVar("HandleT", bound="Handle")


class Handle(Protocol):
    """A running job has been started or handed over."""

    def poll(self) -> int | None:
        """Return its exit code, once it has ended."""
        ...


def run_queue(
    jobs: Sequence[Job],
    slots: Iterable[SlotT],
    start: Callable[[Job, SlotT], HandleT],
    stop: Callable[[list[HandleT], Callable[[], bool]], None],
    on_finish: Callable[[Job, int], Job | None] | None = None,
    cooldown_s: float = 0.0,
    poll_s: float = POLL_S,
    admit: Callable[[Job], bool] | None = None,
) -> list[int]:
    """Run the jobs and return the last exit code of each, in order.

    Args:
        start: makes a job run on a slot.
        stop: ends the jobs that run, when this was interrupted or failed; its second argument tells whether it has been
            interrupted again since it was last asked.
        on_finish: a job that it returns takes the place of the one that has ended, at the end of the queue.
        cooldown_s: how long a slot rests after a job before it takes the next one.
        poll_s: seconds between two looks for jobs that have ended.
        admit: asked when a job is next; one that it refuses never starts, and its code is 0.

    Raises:
        KeyboardInterrupt: interrupted or terminated. The jobs have ended, without ``on_finish`` for those that ran.
    """
    codes = [0] * len(jobs)
    queue, free = deque(enumerate(jobs)), deque(slots)
    resting: deque[tuple[float, SlotT]] = deque()
    running: list[tuple[int, Job, SlotT, HandleT]] = []
    with _interruptions() as received:
        try:
            while (queue or running) and not received:
                while resting and resting[0][0] <= time.monotonic():
                    free.append(resting.popleft()[1])
                while queue and free:
                    position, job = queue.popleft()
                    if admit and not admit(job):
                        continue
                    slot = free.popleft()
                    running.append((position, job, slot, start(job, slot)))
                polled = [(entry, entry[-1].poll()) for entry in running]
                running = [entry for entry, code in polled if code is None]
                ended = [(entry, code) for entry, code in polled if code is not None]
                for (position, job, slot, _), code in ended:
                    # the rest of the slot begins now, not once all that on_finish does for the job is done
                    resting.append((time.monotonic() + cooldown_s, slot))
                    codes[position] = code
                    again = on_finish(job, code) if on_finish else None
                    if again is not None:
                        queue.append((position, again))
                if not ended:
                    time.sleep(poll_s)
        finally:  # whatever was raised, no job goes on without its launcher
            stop([handle for *_, handle in running], _change(received))
    if received:
        raise KeyboardInterrupt
    return codes


def _change(received: list[int]) -> Callable[[], bool]:
    """A call says whether somebody insisted since it was last asked: batch systems repeat their warnings."""
    seen = sum(map(INSISTING.count, received))

    def changed() -> bool:
        nonlocal seen
        before, seen = seen, sum(map(INSISTING.count, received))
        return seen > before

    return changed


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Collect :data:`SIGNALS`: raised as exceptions they could lose a process that has just started."""
    received: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
