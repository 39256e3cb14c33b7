"""The place of the engine's process: the GPUs and the environment variables that it sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch

LAUNCHER = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK",
    "TORCHELASTIC_USE_AGENT_STORE",
)  # fmt: skip
"""Environment variables that a launcher sets for the trainer's ranks, and that the engine's process must not read. With
torchrun's agent store among them, torch would look for a store at the engine's own address instead of starting one."""


class Place:
    """The GPUs that the engine's process sees, and which of them is the trainer's."""

    def __init__(self, engine: Any, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        trainer = device.index or 0
        gpus = list(engine.gpus) or list(range(trainer, trainer + engine.tensor_parallel))
        self.sleeps = self.cuda and engine.sleep and trainer in gpus
        """Whether the engine gives its memory back while the trainer works."""
        # the engine reads new weights from the trainer's GPU, so that it must see it as well
        visible = [*gpus, *({trainer} - set(gpus))]
        names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        self.visible = ",".join(names[gpu] if names else str(gpu) for gpu in visible) if self.cuda else None
        """``CUDA_VISIBLE_DEVICES`` of the engine's process."""
        self.trainer = visible.index(trainer)
        """The number of the trainer's GPU in the engine's process."""

    @contextmanager
    def environment(self, **further: str) -> Iterator[None]:
        """Set the environment variables that the engine's process inherits, within the block.

        ``further`` are defaults for variables that the user has not set.
        """
        changes = {
            **{name: os.environ.get(name, value) for name, value in further.items()},
            **dict.fromkeys(LAUNCHER),
            "CUDA_VISIBLE_DEVICES": self.visible,
            "VLLM_CACHE_ROOT": _cache(int(os.environ.get("LOCAL_RANK", "0"))),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
            "VLLM_NO_USAGE_STATS": "1",
        }
        before = {name: os.environ.get(name) for name in changes}
        try:
            _set(changes)
            yield
        finally:
            _set(before)


def _cache(local_rank: int) -> str | None:
    """Return the folder in which vLLM keeps compiled graphs: one for each rank of a machine.

    vLLM names the files by the rank within its own engine, and reads and writes them without a lock. Engines that start
    at the same time could therefore read half-written files of each other.
    """
    chosen = os.environ.get("VLLM_CACHE_ROOT")
    if local_rank == 0:
        return chosen
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm"
    return str(Path(chosen or usual) / f"local-rank-{local_rank}")


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that start in the block ignore a terminal's Ctrl-C, since the trainer decides when they end."""
    resource_tracker.ensure_running()  # it would unblock the signal when it starts, so it must run before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
