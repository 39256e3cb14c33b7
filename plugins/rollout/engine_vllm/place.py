"""Where the engine's process runs: the GPUs and the environment that it sees."""

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
"""What a launcher tells the trainer's ranks, and the engine's process must not take as its own. With torchrun's agent
store in sight, torch would look for a store at the engine's own address rather than start one there."""


class Place:
    """Which GPUs the engine's process sees, and where among them the trainer's is."""

    def __init__(self, engine: Any, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        own = device.index or 0
        gpus = list(engine.gpus) or [own, *(other for other in range(own + 1, own + engine.tensor_parallel))]
        self.sleeps = self.cuda and engine.sleep and own in gpus
        seen = [*gpus, *({own} - set(gpus))]
        names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        self.visible = ",".join(names[gpu] if names else str(gpu) for gpu in seen) if self.cuda else None
        self.trainer = seen.index(own)

    @contextmanager
    def environment(self, **further: str) -> Iterator[None]:
        """What the engine's process inherits, and ``further`` settings of ours that give way to the user's."""
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
    """Where vLLM keeps compiled graphs: a folder for each rank of a machine.

    vLLM names the files by the rank within its own engine, and reads and rewrites them without a lock, so engines that
    start together may read what another has written in part.
    """
    own = os.environ.get("VLLM_CACHE_ROOT")
    if local_rank == 0:
        return own
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm"
    return str(Path(own or usual) / f"local-rank-{local_rank}")


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started here do not hear a terminal's Ctrl-C: the trainer decides what becomes of them."""
    resource_tracker.ensure_running()  # it hears all signals again once it starts, so it must be there before
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
