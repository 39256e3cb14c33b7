"""How tensors reach the engine's process: by CUDA IPC handle on GPUs, through a file in memory elsewhere.

A handle names memory that the trainer has already, so nothing is copied on this side, and the engine copies straight
into its own tensors. What is sent is only valid until the call that sends it returns.
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
"""Tensors are sent in parts of about this size; only what is gathered for the purpose takes up memory meanwhile."""
SHARED = Path("/dev/shm")
"""Where a session's folder is, if there is such a place: what is in it is in memory."""
_DEVICE = 6
"""The place of the device's index among the arguments that rebuild a CUDA tensor."""

Named = tuple[str, Tensor]


def buckets(weights: Iterable[Named], limit: int = BUCKET_BYTES) -> Iterator[tuple[list[Named], bool]]:
    """``(tensors, whether they are the last)``, each but the last at least ``limit`` bytes together."""
    held: list[Named] = []
    size = 0
    for name, tensor in weights:
        if size >= limit:
            yield held, False
            held, size = [], 0
        held.append((name, tensor.detach().contiguous()))
        size += tensor.numel() * tensor.element_size()
    yield held, True


@contextmanager
def packed(tensors: list[Named], gpu: int, folder: str) -> Iterator[bytes]:
    """What the engine's process is told; it can read the tensors as long as this context is open.

    ``gpu``: the number of the tensors' GPU in the engine's process. ``folder``: where a file may be written.
    """
    if tensors and tensors[0][1].is_cuda:
        from torch.multiprocessing.reductions import reduce_tensor

        torch.cuda.current_stream().synchronize()  # the other process knows nothing of our stream
        handles = [(name, *reduce_tensor(tensor)) for name, tensor in tensors]
        here = [(name, rebuild, (*a[:_DEVICE], gpu, *a[_DEVICE + 1 :])) for name, rebuild, a in handles]
        yield pickle.dumps(here)
        torch.cuda.ipc_collect()
        return
    file = Path(folder) / "weights.safetensors"
    save_file({name: tensor.cpu().clone() for name, tensor in tensors}, file)  # tied tensors share memory
    try:
        yield pickle.dumps(str(file))
    finally:
        file.unlink()


def write_adapter(directory: Path, settings: PeftConfig, weights: Iterable[Named]) -> None:
    """Make ``directory``, and write there what ``save_pretrained`` of peft writes of an adapter."""
    settings.save_pretrained(str(directory))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
    save_file(tensors, directory / "adapter_model.safetensors")


def unpacked(message: bytes, device: torch.device) -> list[Named]:
    """In the engine's process: the tensors, views of the sender's memory where it is a GPU's."""
    content = pickle.loads(message)  # written by the trainer of this very run
    if isinstance(content, str):
        return list(load_file(content, device=str(device)).items())
    return [(name, rebuild(*arguments)) for name, rebuild, arguments in content]
