"""The processes of one run: who I am, and how rows and results travel between ranks."""

from __future__ import annotations

import atexit
import itertools
import os
import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import attrs
import torch
import torch.distributed as dist
from torch import Tensor

from ....core.errors import RequestError, RunError, UncollapseError
from .place import check_master, read_place
from .quiet import quiet_libraries
from .rank_processes import end_with_launcher

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a rank waits for another, which may be building a model, rolling out longer or writing a checkpoint. That a
process has died, its launcher notices."""
RUNS = itertools.count()
MODEL = re.compile(r"\b(?:[ABHL]\d{1,3}S?|GB?\d{3}|V100|T4|P100|K80|RTX \w+)\b")
"""The part of a GPU's name that people call it by."""


@attrs.frozen
class Ranks:
    """The place of this process among the ``size`` processes of the run."""

    rank: int
    size: int
    device: torch.device
    store: Any = attrs.field(default=None, eq=False, repr=False)
    """What the ranks were brought together with: words that any of them can leave, without waiting for another."""
    run: int = 0
    """How many runs these processes have begun before: each leaves words of its own."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_work(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives, of every rank on every rank. Where it raises on one of them, no other waits for it.

        ``work`` must not wait for other ranks itself.

        Raises:
            RunError: it raised on another rank; here, what it raised goes through as it is.
        """
        if self.size == 1:
            return [work()]
        results: list[T] = []
        failure: Exception | None = None
        try:
            results.append(work())
        except Exception as error:
            failure = error
        outcomes = self.gather((results, None if failure is None else _portable(failure)))
        if failure is not None:
            raise failure
        for rank, (_, theirs) in enumerate(outcomes):
            if theirs is not None:
                raise RunError(f"rank {rank} failed: {theirs.what}", theirs.where, theirs.fix)
        return [result for (result,), _ in outcomes]

    def first_does(self, work: Callable[[], None]) -> None:
        """Let rank 0 alone do something; the others wait. Raises as :meth:`gather_work` does."""
        self.gather_work(work if self.first else lambda: None)

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank."""
        return any(self.gather(value))

    def agree(self, what: str, wait_s: float) -> bool:
        """Whether all ranks ask this about the same thing within ``wait_s`` seconds.

        For ranks that do not know whether the others are still waiting for them somewhere.
        """
        if self.size == 1 or self.store is None:
            return self.size == 1
        keys = [f"uncollapse/{self.run}/{what}/{rank}" for rank in range(self.size)]
        self.store.set(keys[self.rank], "here")
        deadline = time.monotonic() + wait_s
        while not self.store.check(keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device if self.device.type == "cuda" else None)
        return values[0]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def _portable(error: Exception) -> RunError:
    """What crosses to other processes of an error: its words."""
    if isinstance(error, UncollapseError):
        return RunError(error.what, error.where, error.fix)
    return RunError(f"{type(error).__name__}: {error}")


def start_ranks() -> Ranks:
    """Join the processes that a launcher started (RANK, WORLD_SIZE, LOCAL_RANK), or be the only one.

    A single process needs no port: it uses a store in its own memory.

    Raises:
        RequestError: the environment variables are no place in a run, or not that of the group that this process is in.
        RunError: the processes cannot meet.
    """
    place = read_place()
    size, rank, local_rank = place.size, place.rank, place.local_rank
    cuda = torch.cuda.is_available()
    end_with_launcher()
    quiet_libraries()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        if local_rank >= (there := torch.cuda.device_count()):
            raise RequestError(f"LOCAL_RANK is {local_rank}, and this machine has {there} GPUs", "the environment")
        torch.cuda.set_device(device)
    if dist.is_initialized():
        _check_group(size, rank)
    else:
        store = dist.HashStore() if size == 1 else None
        if size > 1:
            check_master()
        backend = "nccl" if cuda else "gloo"
        try:
            if store is None:
                store = next(dist.rendezvous("env://", rank, size, timeout=PATIENCE))[0]
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:  # the port is taken, the first rank never came
            reason = str(error).splitlines()[0]
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RunError(
                f"the processes of the run cannot meet: {reason}", where, "try another MASTER_PORT"
            ) from error
        atexit.register(_leave)
    # also where an earlier run, or the program around this one, has brought them together
    return Ranks(rank, size, device, dist.distributed_c10d._get_default_store(), next(RUNS))


def _check_group(size: int, rank: int) -> None:
    """DeepSpeed would go by the group that the program has made: each process, alone, would train with the others."""
    if (dist.get_world_size(), dist.get_rank()) != (size, rank):
        raise RequestError(
            f"this process is rank {dist.get_rank()} of {dist.get_world_size()} in torch.distributed, and by its "
            f"environment variables rank {rank} of {size}",
            "the environment",
            "set RANK, LOCAL_RANK and WORLD_SIZE to what init_process_group was given",
        )


def _leave() -> None:
    """Without this, gloo's threads may outlive the interpreter and abort a process that has done all its work.

    They ask for the interpreter's lock to drop the tensors of the last collective, and are torn down if they get to
    ask only while it shuts down. Whoever still holds the group (DeepSpeed does) keeps them alive, so they are given
    time as well.
    """
    if dist.is_initialized():
        several = dist.get_world_size() > 1
        dist.destroy_process_group()
        time.sleep(0.5 if several else 0.0)


def gpu_names() -> list[str]:
    """The GPUs of this machine that this process may use."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpu_label(names: Sequence[str], ranks: int) -> str:
    """``4xH100``: the GPUs of a run of ``ranks`` processes; ``mixed`` if they differ, ``cpu`` if there is none."""
    if not names:
        return "cpu"
    models = {match[0] if (match := MODEL.search(name)) else name for name in names[:ranks]}
    return f"{ranks}x{models.pop() if len(models) == 1 else 'mixed'}"
