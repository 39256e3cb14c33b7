"""A model's own noise in training: found by the rates that its modules hold, and switched off."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

NOISES = ("drop", "jitter")
"""What the names of rates have in them: dropout, layerdrop and stochastic depth; the noise of a mixture's router."""


def has_dropout(module: nn.Module) -> bool:
    """Whether a pass in training mode is a noisy one: it says nothing exact of the policy that samples."""
    return any(True for _ in _rates(module))


def switch_off(module: nn.Module) -> None:
    """Set every rate of ``module`` to zero; what its configuration says stays, and is saved with it."""
    for part, name in list(_rates(module)):
        setattr(part, name, 0.0)


def _rates(module: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Every part of ``module`` with the name of a rate above zero.

    Transformers' models hold dropout as a module, or as a rate under a name with ``drop`` in it; and the noise of a
    mixture's router as a rate under one with ``jitter``.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            yield part, "p"
        for name, rate in vars(part).items():
            if any(noise in name for noise in NOISES) and isinstance(rate, float) and rate > 0:
                yield part, name
