"""What we add to vLLM's worker (its ``worker_extension_cls``): taking over weights, and dying with the trainer."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ..fingerprint import fingerprint
from .transfer import unpacked

if TYPE_CHECKING:
    from ..fingerprint import Fingerprint
    from .transfer import Named


class WeightReceiver:
    """Mixed into the worker class by vLLM: ``self`` is the worker, and every method is called by ``collective_rpc``."""

    device: torch.device
    model_runner: Any
    reload_weights: Any
    uncollapse_staged: list[Named]

    def uncollapse_bind(self, trainer: int, folder: str) -> None:
        """A trainer (its process id) that is killed takes this process with it, the one that started it, and the
        ``folder`` of the session.
        """
        engine = os.getppid()
        others = [engine] if engine != trainer else []
        threading.Thread(target=_die_with, args=(psutil.Process(trainer), others, folder), daemon=True).start()

    def uncollapse_receive(self, message: bytes, last: bool, room: bool) -> None:
        """Load what :func:`.transfer.packed` wrote, by Hugging Face names; parts before the last are kept until then.

        There is ``room`` for them on this worker's GPU where the KV cache sleeps; otherwise host memory keeps them.
        """
        tensors = unpacked(message, self.device)
        staged = getattr(self, "uncollapse_staged", [])
        if not last:
            place = self.device if room else torch.device("cpu")  # what is sent lies on the trainer's GPU
            self.uncollapse_staged = staged + [(name, tensor.to(place, copy=True)) for name, tensor in tensors]
        else:
            self.uncollapse_staged = []
            with torch.device(self.device):
                self.reload_weights(weights_iterator=iter(staged + tensors))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def uncollapse_fingerprint(self, shapes: dict[str, list[int]]) -> dict[str, Fingerprint]:
        """Of each parameter of these names that this worker holds whole; rows that pad a vocabulary are left out.

        Fused and sharded parameters, and those that were repacked for a kernel, cannot be compared.
        """
        whole = {}
        for name, parameter in self.model_runner.get_model().named_parameters():
            rows, *rest = shapes.get(name, [0])
            if rows and list(parameter.shape[1:]) == rest and len(parameter) >= rows:
                whole[name] = parameter[:rows]
        return fingerprint(whole.items())


def _die_with(trainer: psutil.Process, others: list[int], folder: str) -> None:
    trainer.wait()
    shutil.rmtree(folder, ignore_errors=True)  # memory, where it is in /dev/shm; the trainer may have removed it
    for process in others:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
