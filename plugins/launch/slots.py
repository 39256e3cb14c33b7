"""The slots of this machine say which GPUs or cores a job gets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from ...core.errors import RequestError, in_python

MOST = 100_000
"""Number of slots, GPUs or cores that one may ask for."""
DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
"""Files that a machine with a GPU has."""
LONGEST_S = 30 * 86400.0
"""Seconds that one may ask to wait."""


def check_count(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """The validator of a number of slots, GPUs or cores."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        shown = f"{value!r:.40}" if not isinstance(value, int) or abs(value) < 10**12 else "a larger number"
        raise ValueError(f"{attribute.name} must be a count of at least 1 and at most {MOST}, not {shown}")


def check_seconds(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """The validator of a time to wait."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= LONGEST_S:
        raise ValueError(f"{attribute.name} must be seconds, at least 0 and at most {LONGEST_S:.0f}, not {value!r:.40}")


def check_text(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    """The validator of a name or an address, which may be absent."""
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{attribute.name} must be text, not {value!r:.40}")


@attrs.frozen
class Slot:
    """A slot is where one job at a time runs."""

    gpus: tuple[str, ...]
    """Device ids; empty on the CPU."""
    threads: int
    """Threads of the numeric libraries."""

    def __str__(self) -> str:
        if self.gpus:
            return f"GPU {','.join(self.gpus)}"
        return f"CPU, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def environment(self) -> dict[str, str]:
        """What a job that runs here finds in its environment."""
        devices = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        return {**job_environment(self.threads), **devices}


def job_environment(threads: int) -> dict[str, str]:
    """Have threads sleep while they wait, or jobs side by side would slow each other down; no output held back."""
    return {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(threads),
        # The pool of numpy, apart from torch's, starts when it is imported: nothing could be forked after that.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "PYTHONUNBUFFERED": "1",
    }


def make_slots(
    count: int | Literal["auto"],
    gpus: Sequence[str] | None,
    gpus_per_job: int,
    max_parallel: int | None,
    per_gpu: int = 1,
) -> list[Slot]:
    """Return ``per_gpu`` slots per ``gpus_per_job`` consecutive GPUs, or one per core without any; or ``count`` slots.

    Raises RequestError if the GPUs cannot be had, or not be shared out.
    """
    if per_gpu > 1 and count != "auto":
        raise RequestError("slots and jobs per GPU are given, and each says how many there are", fix="drop one of them")
    devices = visible_gpus() if gpus is None else list(gpus)
    if gpus is not None:
        _check_ids(devices)
    if gpus_per_job > len(devices) and (devices or gpus_per_job > 1):
        raise RequestError(
            f"a job asks for {gpus_per_job} GPUs, and there {'is' if len(devices) == 1 else 'are'} {len(devices)}",
            f"GPUs: {', '.join(devices) or 'none'}",
            f"ask for at most {len(devices)} per job" if devices else "ask for 1: without a GPU, jobs run on the CPU",
        )
    if devices and len(devices) % gpus_per_job:
        raise RequestError(
            f"{len(devices)} GPUs cannot be shared out by {gpus_per_job}",
            f"GPUs: {', '.join(devices)}",
            f"name {len(devices) - len(devices) % gpus_per_job} of them, or ask for another number per job",
        )
    groups = [tuple(devices[i : i + gpus_per_job]) for i in range(0, len(devices), gpus_per_job)] or [()]
    cores = len(os.sched_getaffinity(0))
    number = count if count != "auto" else per_gpu * len(groups) if devices else cores
    if max_parallel is not None:
        number = min(number, max_parallel)
    return [Slot(groups[i % len(groups)], max(1, cores // number)) for i in range(number)]


def read_ids(gpus: str | int | Iterable[str | int] | None) -> tuple[str, ...] | None:
    """Return device ids as text: from a list, one id, or text with commas."""
    if gpus is None:
        return None
    if isinstance(gpus, str | int):
        gpus = str(gpus).split(",")
    return tuple(str(gpu).strip() for gpu in gpus)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use: CUDA_VISIBLE_DEVICES, else what ``nvidia-smi -L`` lists."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None or not has_gpu():
        return [str(index) for index in range(len(_installed_gpus() or ()))]
    names = [name.strip() for name in listed.split(",")]
    return [name for name in names if name not in ("", "-1", "NoDevFiles")]


def has_gpu() -> bool:
    """Say whether this machine has a GPU, by nvidia-smi or by the files of its driver; AMD's and WSL's count."""
    return bool(_installed_gpus()) or any(any(Path(path).parent.glob(Path(path).name)) for path in DEVICES)


def _installed_gpus() -> list[list[str]] | None:
    """Return the UUIDs of each GPU of this machine, its parts included; ``None`` if nvidia-smi cannot tell."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "-L"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    gpus: list[list[str]] = []
    for line in answer.stdout.splitlines():
        if line.startswith("GPU "):
            gpus.append([])
        if gpus:
            gpus[-1] += re.findall(r"UUID: ([^)]+)", line)
    return gpus


def _check_ids(ids: list[str]) -> None:
    """Raise RequestError for ids that are empty, doubled, or not of this machine."""
    if not ids or "" in ids:
        raise RequestError("an id in the list of GPUs is empty", f"GPUs: {','.join(ids)}", "write 0,1")
    if doubled := sorted({gpu for gpu in ids if ids.count(gpu) > 1}):
        raise RequestError(f"GPU {', '.join(doubled)} is named twice", f"GPUs: {','.join(ids)}", "name each GPU once")
    if not has_gpu():
        raise RequestError(
            "this machine has no GPU",
            f"GPUs: {','.join(ids)}",
            f"leave {in_python('--gpus', 'gpus')} out to train on the CPU, or mend the driver: uncollapse doctor",
        )
    installed = _installed_gpus()
    if not installed:  # nvidia-smi cannot tell: an id that could be one is left to the driver
        if odd := [gpu for gpu in ids if not re.fullmatch(r"\d{1,4}|(GPU|MIG)-[\w/-]+", gpu)]:
            raise RequestError(f"{odd[0]!r:.40} is no id of a GPU", f"GPUs: {','.join(ids)[:80]}", "write 0,1")
        return
    uuids = [uuid for gpu in installed for uuid in gpu]
    for gpu in ids:
        installed_here = (
            int(gpu[:9]) < len(installed) if gpu.isdecimal() else any(uuid.startswith(gpu) for uuid in uuids)
        )
        if not installed_here:
            raise RequestError(
                f"this machine has no GPU {gpu}",
                f"nvidia-smi lists {len(installed)}: {', '.join(map(str, range(len(installed)))) or 'none'}",
                "nvidia-smi -L",
            )
