"""Token heads of other packages, and ours, have one signature here: hidden, weight, targets -> log-probs, entropies."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from uncollapse.plugins.training.heads.trl_head import Trl

Contender = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def ours(head: Any, second_moment: str = "none") -> Contender:
    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        found = head(hidden, weight, targets, entropy="gradient", second_moment=second_moment)
        return tuple(x for x in (found.logprobs, found.entropies, found.second_moments) if x is not None)

    return run


def dense(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """All logits at once, everything after them in fp32."""
    logp = (hidden @ weight.T).float().log_softmax(-1)
    return logp.gather(-1, targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)


def trl(columns: int) -> Contender:
    from trl.kernels import ChunkedLogProbFunction  # noqa: F401 - so that a missing peer is noticed here

    try:
        importlib.import_module("trl.trainer.utils")
    except ImportError:  # its backward pass takes one function from there, which matters with ZeRO 3 only
        for name in ("trl.trainer", "trl.trainer.utils"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["trl.trainer.utils"].maybe_gather_lm_head_ctx = lambda *_: nullcontext()
    return ours(Trl(columns))


def liger(native: bool) -> Contender:
    module = importlib.import_module("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    if native:
        module._load_sm90_function()  # ImportError without the extra that brings the compiled path
    function = module.LigerFusedLinearScaledCrossEntropyFunction if native else module._FusedLinearPPOFallbackFunction

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        if native:
            losses, entropies = function.apply(hidden, weight, targets, 1.0, -100, 1, True)
        else:
            losses, entropies = function.apply(hidden, weight, targets, 1.0, -100, True)
        return -losses, entropies

    return run


def verl() -> Contender:
    try:
        module = importlib.import_module("verl.utils.kernel.linear_cross_entropy")
    except ImportError:
        # the package imports Ray and more; the kernel needs none of it
        root = find_spec("verl")
        if root is None or not root.submodule_search_locations:
            raise
        for name in ("verl", "verl.utils"):
            stub = sys.modules[name] = types.ModuleType(name)
            stub.__path__ = [str(Path(root.submodule_search_locations[0], *name.split(".")[1:]))]
        module = importlib.import_module("verl.utils.kernel.linear_cross_entropy")

    def run(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return tuple(module.linear_cross_entropy(hidden, weight, targets, 1.0, "none"))

    return run
