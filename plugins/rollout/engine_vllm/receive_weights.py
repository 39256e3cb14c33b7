"""A class extends vLLM's worker (``worker_extension_cls``): it takes the trainer's weights, and ends with it."""

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
from .pack_weights import unpacked

if TYPE_CHECKING:
    from ..fingerprint import Fingerprint
    from .pack_weights import Named


class WeightReceiver:
    """Methods that vLLM mixes into its worker class: ``self`` is the worker, and ``collective_rpc`` calls them."""

    device: torch.device
    model_runner: Any
    reload_weights: Any
    uncollapse_staged: list[Named]

    def uncollapse_bind(self, trainer: int, folder: str) -> None:
        """End this process, and the engine's that started it, when the trainer ends; remove the session's folder.

        Args:
            trainer: the trainer's process id.
            folder: the folder of the session.
        """
        engine = os.getppid()
        others = [engine] if engine != trainer else []
        threading.Thread(target=_die_with, args=(psutil.Process(trainer), others, folder), daemon=True).start()

    def uncollapse_receive(self, message: bytes, last: bool, room: bool) -> None:
        """Load the weights of a message of :func:`.pack_weights.packed`, once its last part is there.

        Args:
            message: a part of the weights, by Hugging Face names.
            last: whether it is the last part.
            room: whether earlier parts can wait on this worker's GPU, as while the KV cache sleeps; otherwise they wait
                in the machine's memory.
        """
        tensors = unpacked(message, self.device)
        staged = getattr(self, "uncollapse_staged", [])
        if not last:
            # a copy, since a message is only valid during this call
            place = self.device if room else torch.device("cpu")
            self.uncollapse_staged = staged + [(name, tensor.to(place, copy=True)) for name, tensor in tensors]
        else:
            self.uncollapse_staged = []
            with torch.device(self.device):
                self.reload_weights(weights_iterator=iter(staged + tensors))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def uncollapse_fingerprint(self, shapes: dict[str, list[int]]) -> dict[str, Fingerprint]:
        """Return checksums of the parameters that this worker holds whole, without rows that pad a vocabulary.

        Fused and sharded parameters, and those that were rearranged for a kernel, cannot be compared. ``shapes`` are
        the names and shapes of the trainer's parameters.
        """
        whole = {}
        for name, parameter in self.model_runner.get_model().named_parameters():
            rows, *rest = shapes.get(name, [0])
            if rows and list(parameter.shape[1:]) == rest and len(parameter) >= rows:
                whole[name] = parameter[:rows]
        return fingerprint(whole.items())


def _die_with(trainer: psutil.Process, others: list[int], folder: str) -> None:
    trainer.wait()
    shutil.rmtree(folder, ignore_errors=True)  # it takes memory; the trainer may have removed it already
    for process in others:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
