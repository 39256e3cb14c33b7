"""``uncollapse doctor``: what this machine can run. The only command that imports torch to look at the hardware."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import click

from .options import print_columns

GIB = 2**30
OPTIONAL = {"wandb", "matplotlib", "ninja"}
"""Of the extra [train]: what a run without their tracker or report does without."""


@click.command("doctor")
def command() -> None:
    """What this machine can run: Python, cores, memory, torch, GPUs, DeepSpeed, vLLM, compilers, extras."""
    extras = {extra: _missing(extra) for extra in ("train", "vllm", "ray")}
    gpus = list(_gpus())
    print_columns(
        [
            ("uncollapse", version("uncollapse")),
            ("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
            ("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
            ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB"),
            *(
                (name, _version(name) or "not installed")
                for name in ("torch", "transformers", "deepspeed", "vllm", "ray")
            ),
            *((tool, shutil.which(tool) or "not found") for tool in ("g++", "ninja")),
            *((f"GPU {index}", gpu) for index, gpu in enumerate(gpus)),
        ]
    )
    click.echo("\nextras")
    print_columns([(f"[{extra}]", _state(extra, missing)) for extra, missing in extras.items()], indent="  ")
    click.echo("\nthis machine can")
    print_columns(list(_abilities(extras, gpus)), indent="  ")


def _abilities(extras: dict[str, list[str]], gpus: list[str]) -> Iterator[tuple[str, str]]:
    from ..core.registry import registry

    yield "list names and plugins", "yes"
    if set(extras["train"]) - OPTIONAL:
        yield "train", "no: pip install 'uncollapse[train]'"
    elif gpus:
        yield "train", f"yes, on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}"
    else:
        yield "train", "yes, on the CPU: small models only"
    if "vllm" in registry().names("rollout_engine"):
        needed = "pip install 'uncollapse[vllm]'" if extras["vllm"] else "" if gpus else "it needs a GPU"
        yield "roll out with vllm", f"no: {needed}" if needed else "yes"
    launchers = registry().names("launcher")
    if "ray" in launchers:
        yield "sweep on a Ray cluster", "no: pip install 'uncollapse[ray]'" if extras["ray"] else "yes"
    if "slurm" in launchers:
        yield "sweep through Slurm", "yes" if shutil.which("sbatch") else "no: there is no sbatch"


def _gpus() -> Iterator[str]:
    if _version("torch"):
        import torch

        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield f"{device.name}, {device.total_memory / GIB:.0f} GiB"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _missing(extra: str) -> list[str]:
    """What an extra asks for, by our own metadata, and is not installed."""
    wanted = [line for line in requires("uncollapse") or () if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [match[0] for line in wanted if (match := re.match(r"[\w.-]+", line))]
    return [name for name in names if not _version(name)]


def _state(extra: str, missing: list[str]) -> str:
    return f"missing {', '.join(missing)}: pip install 'uncollapse[{extra}]'" if missing else "installed"
