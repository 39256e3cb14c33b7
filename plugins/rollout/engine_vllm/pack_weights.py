"""Tensors reach the engine's process by CUDA IPC handles on GPUs, and through a file in memory elsewhere.

A handle names memory that the trainer already holds, so that nothing is copied on this side, and the engine copies
directly into its own tensors. A handle is only valid until the call that sends it returns.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftConfig

BUCKET_BYTES = 2**33
"""Size in bytes of the parts in which tensors are sent; only gathered tensors take additional memory meanwhile."""
SHARED = Path("/dev/shm")
"""Folder in memory for the files of a session, where the system has one."""
_DEVICE = 6
"""Position of the device's index among the arguments that rebuild a CUDA tensor."""

Named = tuple[str, Tensor]
"""A tensor with its name."""


def buckets(weights: Iterable[Named], limit: int = BUCKET_BYTES) -> Iterator[tuple[list[Named], bool]]:
    """Yield tensors in parts of at least ``limit`` bytes, each with whether it is the last, smaller one."""
    part: list[Named] = []
    size = 0
    for name, tensor in weights:
        if size >= limit:
            yield part, False
            part = []
            size = 0
        part.append((name, tensor.detach().contiguous()))
        size += tensor.numel() * tensor.element_size()
    yield part, True


@contextmanager
def packed(tensors: list[Named], gpu: int, folder: str) -> Iterator[bytes]:
    """Give the message by which the engine's process can read the tensors, as long as the block runs.

    Args:
        tensors: the tensors with their names.
        gpu: the number of their GPU in the engine's process.
        folder: a folder in which a file may be written.
    """
    if tensors and tensors[0][1].is_cuda:
        from torch.multiprocessing.reductions import reduce_tensor

        torch.cuda.current_stream().synchronize()  # the other process knows nothing of our stream
        handles = [(name, *reduce_tensor(tensor)) for name, tensor in tensors]
        message = [(name, rebuild, (*a[:_DEVICE], gpu, *a[_DEVICE + 1 :])) for name, rebuild, a in handles]
        yield pickle.dumps(message)
        torch.cuda.ipc_collect()
        return
    file = Path(folder) / "weights.safetensors"
    save_file({name: tensor.cpu().clone() for name, tensor in tensors}, file)  # tied tensors share memory
    try:
        yield pickle.dumps(str(file))
    finally:
        file.unlink()


def write_adapter(directory: Path, settings: PeftConfig, weights: Iterable[Named]) -> None:
    """Make ``directory`` and write an adapter into it, as peft's ``save_pretrained`` does."""
    settings.save_pretrained(str(directory))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
    save_file(tensors, directory / "adapter_model.safetensors")


def unpacked(message: bytes, device: torch.device) -> list[Named]:
    """Return the tensors of a message in the engine's process; on a GPU they are views of the sender's memory."""
    content = pickle.loads(message)  # written by the trainer of this very run
    if isinstance(content, str):
        return list(load_file(content, device=str(device)).items())
    return [(name, rebuild(*arguments)) for name, rebuild, arguments in content]
