"""A model's own noise in training: found by the rates that its modules hold, and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

NOISES = ("drop", "jitter")
"""What the names of rates have in them: dropout, layerdrop and stochastic depth; the noise of a mixture's router."""


def has_dropout(module: nn.Module) -> bool:
    """Whether a pass in training mode is a noisy one: it says nothing exact of the policy that samples."""
    return any(True for _ in _of_modules(module))


def switch_off(model: Any) -> None:
    """Set every rate of a Hugging Face model to zero, and those of its configuration, which some models read in each
    pass; :func:`as_loaded` puts the latter back.
    """
    for part, name in list(_of_modules(model)):
        setattr(part, name, 0.0)
    model.rates_as_loaded = [(part, name, getattr(part, name)) for part, name in _of_config(model.config)]
    for part, name, _ in model.rates_as_loaded:
        setattr(part, name, 0.0)


@contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """With the rates in its configuration that it came with: a model is saved with those."""
    rates = getattr(model, "rates_as_loaded", ())
    for part, name, rate in rates:
        setattr(part, name, rate)
    try:
        yield
    finally:
        for part, name, _ in rates:
            setattr(part, name, 0.0)


def _of_modules(module: nn.Module) -> Iterator[tuple[Any, str]]:
    """Every part of ``module`` with the name of a rate above zero.

    Transformers' models hold dropout as a module, or as a rate under a name with ``drop`` in it; and the noise of a
    mixture's router as a rate under one with ``jitter``.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            yield part, "p"
        yield from _named(part)


def _of_config(config: Any) -> Iterator[tuple[Any, str]]:
    from transformers import PreTrainedConfig

    yield from _named(config)
    for inner in vars(config).values():
        if isinstance(inner, PreTrainedConfig):
            yield from _of_config(inner)


def _named(part: Any) -> Iterator[tuple[Any, str]]:
    for name, rate in vars(part).items():
        if any(noise in name for noise in NOISES) and isinstance(rate, float) and rate > 0:
            yield part, name
