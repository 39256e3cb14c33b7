"""Checksums show whether two processes hold the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

SAMPLE = 1024
"""The largest number of elements of a tensor whose order a fingerprint depends on."""

Fingerprint = tuple[float, float]
"""The two checksums of a tensor."""


def fingerprint(named_tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Fingerprint]:
    """Compute two checksums of each tensor in float64: the sum of all elements, and an ordered sum of a sample.

    The second one weighs up to :data:`SAMPLE` evenly spaced elements by their position, so that it changes with a
    transposition or another order of rows. It is cheap beside copying the tensors, which need not stay in memory.
    """
    return {name: _checksums(tensor.detach()) for name, tensor in named_tensors}


def mismatches(
    ours: Mapping[str, Fingerprint], theirs: Mapping[str, Fingerprint], tolerance: float = 1e-9
) -> list[str]:
    """Return the names that only one side has, or whose checksums differ by more than ``tolerance``.

    The tolerance is relative or absolute: devices add in different orders, so that the last digits of a sum differ.
    """
    pairs = ((name, ours.get(name), theirs.get(name)) for name in sorted(ours.keys() | theirs.keys()))
    return [name for name, a, b in pairs if a is None or b is None or not _close(a, b, tolerance)]


def _close(ours: Fingerprint, theirs: Fingerprint, tolerance: float) -> bool:
    return all(math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in zip(ours, theirs, strict=True))


def _checksums(tensor: Tensor) -> Fingerprint:
    flat = tensor.reshape(-1)
    sample = flat[:: max(1, -(-len(flat) // SAMPLE))].double().cpu()
    ordered = sample @ torch.arange(1, len(sample) + 1, dtype=torch.float64) / max(1, len(sample))
    return float(flat.sum(dtype=torch.float64)), float(ordered)
