"""``model.liger: true`` puts Liger's fused RMSNorm and SwiGLU in place of a model's own layers, on a GPU."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import torch

from ....core.errors import RequestError

KEY = "model.liger"
FUSED = {"rms_norm": True, "swiglu": True, "geglu": True}
UNFUSED = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}
"""Layers that stay: rotary embeddings would be exchanged for every model of the process; the loss is our own."""


def require() -> None:
    """Raise RequestError if liger-kernel is not installed or there is no GPU; called before a model is loaded."""
    if not torch.cuda.is_available():
        raise RequestError("Liger's kernels need a GPU", KEY, "set it to false")
    if find_spec("liger_kernel") is None:
        raise RequestError("liger-kernel is not installed", KEY, "pip install liger-kernel")


def fuse(model: Any) -> None:
    """Exchange the layers of this one model, in place; its parameters and their names stay.

    The fused layers have no forward-mode derivative. They keep intermediate results in fp32, which the model's own
    layers round to the model's type, so log-probs differ from the unfused ones by that rounding.

    Raises:
        RequestError: Liger does not know the model's family.
    """
    from liger_kernel.transformers import monkey_patch as liger

    family = model.config.model_type
    if family not in liger.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise RequestError(f"Liger knows no fused layers for {family} models", KEY, "set it to false")
    library = vars(sys.modules[type(model).__module__])
    before = dict(library)
    liger._apply_liger_kernel_to_instance(model=model, **FUSED, **UNFUSED)
    # Liger also exchanges the classes in the module, which would change every model that is loaded later
    library.update(before)
