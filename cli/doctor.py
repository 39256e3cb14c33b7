"""``uncollapse doctor``: what this machine can run, and whether an experiment fits its GPUs."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import click

from ..core.console.options import FiniteRange, per_gpu_option, plugin_option, print_columns, set_option
from ..plugins.rollout.engine_vllm import installed

GIB = 2**30
OPTIONAL = {"wandb", "matplotlib", "ninja"}
"""Libraries of the extra [train] that only their tracker or report needs."""


ENOUGH = (8, 0)
"""Compute capability with bfloat16 and the attention kernels (Ampere, 2020)."""


@click.command("doctor")
@click.option("-e", "--experiment", metavar="NAME|FILE", help="Plan the memory of this experiment instead.")
@set_option
@click.option("--ranks", type=click.IntRange(1), help="With -e: on how many GPUs it trains. [default: 1]")
@click.option("--gpu-memory", "--gpu-gib", type=FiniteRange(0.001, 10_000), metavar="GIB", help="With -e: of each GPU.")
@per_gpu_option("With -e: runs side by side on each GPU, or auto for as many as fit.")
@plugin_option
def command(
    experiment: str | None,
    overrides: tuple[str, ...],
    ranks: int | None,
    gpu_memory: float | None,
    per_gpu: int | str | None,
) -> None:
    """What this machine can run: Python, cores, memory, torch, GPUs, DeepSpeed, vLLM, compilers, extras.

    With -e, what that experiment will hold on each GPU in each phase of a step, before anything is loaded, and
    whether it fits (docs/memory.md), alone and side by side with others like it. Exit code 2 if it does not, with
    settings that would.
    """
    if experiment is not None:
        from .memory_plan import print_plan

        print_plan(experiment, overrides, ranks or 1, gpu_memory, per_gpu)
        return
    if overrides or ranks or gpu_memory or per_gpu:
        raise click.UsageError("--set, --ranks, --gpu-memory and --per-gpu are about an experiment: name one with -e")
    extras = {extra: _missing(extra) for extra in ("train", "vllm", "ray")}
    gpus = list(_gpus())
    print_columns(
        [
            ("uncollapse", version("uncollapse")),
            ("python", f"{platform.python_version()} on {platform.platform(terse=True)}"),
            ("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())),
            ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB"),
            *((name, _version(name) or "not installed") for name in ("torch", "transformers", "deepspeed", "ray")),
            ("vllm", _vllm()),
            *((tool, shutil.which(tool) or "not found") for tool in ("g++", "ninja")),
            *((f"GPU {index}", text) for index, (text, _) in enumerate(gpus)),
        ]
    )
    click.echo("\nextras")
    print_columns([(f"[{extra}]", _state(extra, missing)) for extra, missing in extras.items()], indent="  ")
    click.echo("\nthis machine can")
    print_columns(list(_abilities(extras, gpus)), indent="  ")


def _abilities(extras: dict[str, list[str]], gpus: list[tuple[str, tuple[int, int]]]) -> Iterator[tuple[str, str]]:
    from ..core.registry import registry

    yield "list names and plugins", "yes"
    if set(extras["train"]) - OPTIONAL:
        yield "train", "no: pip install 'uncollapse[train]'"
    elif gpus:
        old = any(capability < ENOUGH for _, capability in gpus)
        yield "train", f"yes, on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" + (", in float32 only" if old else "")
    else:
        yield "train", "yes, on the CPU: small models only"
    if "vllm" in registry().names("rollout_engine"):
        yield "roll out with vllm", _vllm_ability([capability for _, capability in gpus])
    launchers = registry().names("launcher")
    if "ray" in launchers:
        yield "sweep on a Ray cluster", "no: pip install 'uncollapse[ray]'" if extras["ray"] else "yes"
    if "slurm" in launchers:
        yield "sweep through Slurm", "yes" if shutil.which("sbatch") else "no: there is no sbatch"


def _gpus() -> Iterator[tuple[str, tuple[int, int]]]:
    """Each GPU in words, with its compute capability."""
    if _version("torch"):
        import torch

        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            capability = (device.major, device.minor)
            text = (
                f"{device.name}, {device.total_memory / GIB:.0f} GiB, compute capability {installed.dotted(capability)}"
            )
            yield text + _too_old(capability), capability


def _too_old(capability: tuple[int, int]) -> str:
    if capability >= ENOUGH:
        return ""
    vllm = f", and vLLM {installed.dotted(installed.CAPABILITY)}" if capability < installed.CAPABILITY else ""
    return f": too old, bfloat16 and the attention kernels need {installed.dotted(ENOUGH)}{vllm}"


def _vllm() -> str:
    name, found = installed.installed()
    return f"{found} ({name})" if name not in ("", "vllm") else found or "not installed"


def _vllm_ability(capabilities: list[tuple[int, int]]) -> str:
    obstacle = installed.obstacle(bool(capabilities), min(capabilities, default=None))
    if obstacle:
        return f"no: {obstacle.reason}; {obstacle.fix}"
    return "yes" if capabilities else "yes, on the CPU"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _missing(extra: str) -> list[str]:
    """What an extra asks for, by our own metadata, and is not installed."""
    wanted = [line for line in requires("uncollapse") or () if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    names = [match[0] for line in wanted if (match := re.match(r"[\w.-]+", line))]
    return [name for name in names if not (installed.installed()[0] if name == "vllm" else _version(name))]


def _state(extra: str, missing: list[str]) -> str:
    return f"missing {', '.join(missing)}: pip install 'uncollapse[{extra}]'" if missing else "installed"
