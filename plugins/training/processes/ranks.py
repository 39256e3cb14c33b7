"""The ranks of a run exchange values and results here, and each knows its place among them."""

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
from .place import Place, check_master, read_place
from .quiet import quiet_libraries
from .rank_processes import end_with_launcher

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""Time that a rank waits for another one, which may be building a model, sampling longer or writing a checkpoint. It is
long, because a process that has died is noticed by its launcher."""
RUNS = itertools.count()
"""Counter of the runs that this process has begun."""
MODEL = re.compile(r"\b(?:[ABHL]\d{1,3}S?|GB?\d{3}|V100|T4|P100|K80|RTX \w+)\b")
"""Pattern of the part of a GPU's name that people call it by."""


@attrs.frozen
class Ranks:
    """Ranks are the processes of a run, as one of them sees them."""

    rank: int
    """Number of this process, from 0."""
    size: int
    """Number of processes of the run."""
    device: torch.device
    """Device that this process computes on."""
    store: Any = attrs.field(default=None, eq=False, repr=False)
    """Store of torch.distributed, in which any rank can leave a word without waiting for another one."""
    run: int = 0
    """Number of runs that these processes have begun before; words of different runs have different keys."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes the run directory."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, on every rank, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def gather_work(self, work: Callable[[], T]) -> list[T]:
        """Do ``work`` on every rank and return all results on every rank. If it raises on one, no other rank waits.

        ``work`` must not wait for other ranks itself.

        Raises:
            RunError: ``work`` raised on another rank. What it raises on this rank passes through unchanged.
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
        for rank, (_, error_there) in enumerate(outcomes):
            if error_there is not None:
                raise RunError(f"rank {rank} failed: {error_there.what}", error_there.where, error_there.fix)
        return [result for (result,), _ in outcomes]

    def first_does(self, work: Callable[[], None]) -> None:
        """Let rank 0 alone do something; the others wait. Raises as :meth:`gather_work` does."""
        self.gather_work(work if self.first else lambda: None)

    def any(self, value: bool) -> bool:
        """Say whether the value is true on any rank."""
        return any(self.gather(value))

    def agree(self, what: str, wait_s: float) -> bool:
        """Say whether all ranks ask this about the same thing within ``wait_s`` seconds.

        It is for ranks that do not know whether the others still wait for them in another call.
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
        """Return rank 0's value on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, device=self.device if self.device.type == "cuda" else None)
        return values[0]

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def _portable(error: Exception) -> RunError:
    """Keep the words of an error, which can be sent to other processes; the error itself may not be."""
    if isinstance(error, UncollapseError):
        return RunError(error.what, error.where, error.fix)
    return RunError(f"{type(error).__name__}: {error}")


def start_ranks() -> Ranks:
    """Join the processes that a launcher started (RANK, WORLD_SIZE, LOCAL_RANK), or be the only one.

    A single process needs no port: it uses a store in its own memory.

    Raises:
        RequestError: the environment variables describe no place in a run, or not the place that this process has in
            the process group that it is in.
        RunError: the processes cannot meet.
    """
    place = read_place()
    end_with_launcher()
    quiet_libraries()
    device = _device(place)
    if dist.is_initialized():
        _check_group(place)
    else:
        _meet(place, "nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    # the default store is also there if an earlier run, or the program around this one, has made the group
    return Ranks(place.rank, place.size, device, dist.distributed_c10d._get_default_store(), next(RUNS))


def _device(place: Place) -> torch.device:
    """Choose this process' GPU, or the CPU on a machine without GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if place.local_rank >= gpus:
        raise RequestError(f"LOCAL_RANK is {place.local_rank}, and this machine has {gpus} GPUs", "the environment")
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _meet(place: Place, backend: str) -> None:
    """Make the process group of all ranks."""
    store = dist.HashStore() if place.size == 1 else None
    if place.size > 1:
        check_master()
    try:
        if store is None:
            store = next(dist.rendezvous("env://", place.rank, place.size, timeout=PATIENCE))[0]
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        # another process has the port, or rank 0 did not come
        reason = str(error).splitlines()[0]
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise RunError(f"the processes of the run cannot meet: {reason}", where, "try another MASTER_PORT") from error


def _check_group(place: Place) -> None:
    """Refuse a process group, made by the program around this run, in which this process has another place.

    DeepSpeed would use that group: processes that each want to train alone would train together.
    """
    if (dist.get_world_size(), dist.get_rank()) != (place.size, place.rank):
        raise RequestError(
            f"this process is rank {dist.get_rank()} of {dist.get_world_size()} in torch.distributed, and by its "
            f"environment variables rank {place.rank} of {place.size}",
            "the environment",
            "set RANK, LOCAL_RANK and WORLD_SIZE to what init_process_group was given",
        )


def _leave() -> None:
    """Leave the process group, and give gloo's threads time to end before the interpreter does.

    Otherwise they may abort a process that has done all its work: they need the interpreter's lock to drop the tensors
    of the last collective, and are killed if they ask for it only while the interpreter shuts down. Destroying the
    group is not enough, because other objects (DeepSpeed has some) may still hold it.
    """
    if dist.is_initialized():
        several = dist.get_world_size() > 1
        dist.destroy_process_group()
        time.sleep(0.5 if several else 0.0)


def gpu_names() -> list[str]:
    """List the names of the GPUs of this machine that this process may use."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def gpu_label(names: Sequence[str], ranks: int) -> str:
    """Name the GPUs of a run of ``ranks`` processes, as in ``4xH100``; ``mixed`` if they differ, ``cpu`` if none."""
    if not names:
        return "cpu"
    models = set()
    for name in names[:ranks]:
        match = MODEL.search(name)
        models.add(match[0] if match else name)
    return f"{ranks}x{models.pop() if len(models) == 1 else 'mixed'}"
