"""A model adds noise in training (dropout and the like), which is found by its rates and switched off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

NOISES = ("drop", "jitter")
"""Parts of the names of rates: of dropout, layerdrop and stochastic depth; of the noise of a mixture's router."""


def has_dropout(module: nn.Module) -> bool:
    """Say whether a pass in training mode has noise, so that its log-probs are not those of the policy that samples."""
    return any(True for _ in _rates_of_modules(module))


def switch_off(model: Any) -> None:
    """Set every rate of a Hugging Face model to zero, in its modules and in its configuration.

    Some models read the configuration in each pass; :func:`as_loaded` puts its rates back.
    """
    for part, name in list(_rates_of_modules(model)):
        setattr(part, name, 0.0)
    model.rates_as_loaded = [(part, name, getattr(part, name)) for part, name in _rates_of_config(model.config)]
    for part, name, _ in model.rates_as_loaded:
        setattr(part, name, 0.0)


@contextmanager
def as_loaded(model: Any) -> Iterator[None]:
    """Put the rates that a model was loaded with back into its configuration for a while: it is saved with them."""
    rates = getattr(model, "rates_as_loaded", ())
    for part, name, rate in rates:
        setattr(part, name, rate)
    try:
        yield
    finally:
        for part, name, _ in rates:
            setattr(part, name, 0.0)


def _rates_of_modules(module: nn.Module) -> Iterator[tuple[Any, str]]:
    """Yield every part of ``module`` that has a rate above zero, with the name of the rate.

    Transformers' models hold dropout as a module, or as a rate whose name contains ``drop``, and the noise of a
    mixture's router as a rate whose name contains ``jitter``.
    """
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            yield part, "p"
        yield from _rates_of(part)


def _rates_of_config(config: Any) -> Iterator[tuple[Any, str]]:
    """Yield a configuration, and those inside it, with the name of each rate above zero."""
    from transformers import PreTrainedConfig

    yield from _rates_of(config)
    for inner in vars(config).values():
        if isinstance(inner, PreTrainedConfig):
            yield from _rates_of_config(inner)


def _rates_of(part: Any) -> Iterator[tuple[Any, str]]:
    for name, rate in vars(part).items():
        if any(noise in name for noise in NOISES) and isinstance(rate, float) and rate > 0:
            yield part, name
