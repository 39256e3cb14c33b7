"""uncollapse: train language-model agents with reinforcement learning, sweep interventions, measure collapse.

Importing the package costs nothing; the public names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.compose.config import compose
    from .core.hookspecs import hookimpl
    from .core.registry import registry
    from .plugins.sweeps.sweep import Sweep
    from .plugins.training.train import train

_PUBLIC = {
    "compose": ".core.compose.config",
    "hookimpl": ".core.hookspecs",
    "registry": ".core.registry",
    "Sweep": ".plugins.sweeps.sweep",
    "train": ".plugins.training.train",
}

__all__ = ["Sweep", "compose", "hookimpl", "registry", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("uncollapse")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'uncollapse' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name], __name__), name)
