"""The gradients behind one probe can be looked at, logged and kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ....core.files import replace_text, to_json
from ..estimation.directions import PreconditionedGradient
from ..estimation.passes import Direction, inner, norm, trained
from ..probed import Probed

GRADIENTS, NORMS = "gradients.safetensors", "gradient_norms.json"


def gradients(probed: Probed) -> dict[str, dict[str, Tensor]]:
    """Return ``X_bar``, ``Y_bar`` and ``v``, each by the name of the parameter.

    ``X_bar`` is the gradient of E's mean entropy, by a reverse pass. ``Y_bar`` is the policy gradient of U, uphill,
    over the root of the saved second moment. ``v`` is the step per unit of learning rate: bars_dot is X_bar . v. With
    the direction ``preconditioned_gradient`` v is Y_bar; with ``adamw`` it also has momentum, weight decay and the new
    gradient in the second moment.
    """
    session, measurement = probed.session, probed.measurement
    v = measurement.step.direction
    proxy = probed.config.direction == "preconditioned_gradient"
    Y_bar = v if proxy else PreconditionedGradient(session.adam).direction(measurement.step.gradient)
    return {"X_bar": measurement.entropy_gradient(probed.config.entropy_unit), "Y_bar": Y_bar, "v": v}


def norms(probed: Probed, by_kind: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Return norms of :func:`gradients`, whole and by parameter, and inner products in nats per unit of eta."""
    return {
        "entropy_unit": probed.config.entropy_unit,
        "direction": probed.config.direction,
        "X_bar_dot_v": inner(by_kind["X_bar"], by_kind["v"]),
        "X_bar_dot_Y_bar": inner(by_kind["X_bar"], by_kind["Y_bar"]),
        **{kind: _counted(gradient) for kind, gradient in by_kind.items()},
    }


def save(directory: Path, probed: Probed, by_kind: dict[str, dict[str, Tensor]]) -> None:
    """Write ``gradients.safetensors`` (``X_bar/<parameter>`` and so on, float32) and ``gradient_norms.json``.

    Both ``Y_bar`` and ``v`` are written only if they differ.
    """
    tensors = {}
    for kind, gradient in by_kind.items():
        if kind == "v" and gradient is by_kind["Y_bar"]:
            continue
        for name, tensor in gradient.items():
            tensors[f"{kind}/{name}"] = tensor.detach().to("cpu", torch.float32).contiguous()
    about: dict[str, str] = {"entropy_unit": probed.config.entropy_unit, "direction": probed.config.direction}
    temporary = directory / f"{GRADIENTS}.{os.getpid()}.tmp"
    try:
        save_file(tensors, temporary, about)
        temporary.replace(directory / GRADIENTS)
    finally:
        temporary.unlink(missing_ok=True)
    replace_text(directory / NORMS, to_json(norms(probed, by_kind), indent=2))


def describe(probed: Probed, by_kind: dict[str, dict[str, Tensor]]) -> Iterator[str]:
    """Yield lines for the log: numbers of parameters, coverage of Adam's state, norms whole and by parameter."""
    policy, coverage = probed.session.policy, probed.session.adam.coverage
    every, train = dict(policy.named_parameters()), trained(policy)
    yield f"parameters: {len(every)} tensors, {_elements(every):,} numbers; {len(train)} train, {_elements(train):,}"
    yield (
        f"Adam's state: {coverage.matched} of {coverage.trainable} tensors that train ({coverage.by}), "
        f"{coverage.saved} saved"
    )
    gradient = probed.measurement.step.gradient
    named = {"X_bar (phase 1)": by_kind["X_bar"], "gradient of U's loss (phase 2)": gradient}
    for kind, tensors in {**named, "Y_bar": by_kind["Y_bar"], "v": by_kind["v"]}.items():
        counted = _counted(tensors)
        yield f"{kind}: norm {counted['norm']:.6e}, {counted['nonzero_tensors']} of {counted['tensors']} tensors not 0"
    yield f"X_bar . v = {inner(by_kind['X_bar'], by_kind['v']):.6e} (phase 3, by a reverse pass)"
    for name in train:
        yield f"{name}: norm of X_bar {_norm(by_kind['X_bar'], name):.3e}, of v {_norm(by_kind['v'], name):.3e}"


def _counted(gradient: Direction) -> dict[str, Any]:
    return {
        "norm": norm(gradient),
        "tensors": len(gradient),
        "nonzero_tensors": sum(bool(tensor.any()) for tensor in gradient.values()),
        "numbers": _elements(gradient),
        "by_parameter": {name: _norm(gradient, name) for name in gradient},
    }


def _norm(gradient: Direction, name: str) -> float:
    return norm({name: gradient[name]})


def _elements(tensors: Direction) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
