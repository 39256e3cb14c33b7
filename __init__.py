"""uncollapse: train language-model agents with reinforcement learning, sweep interventions, measure collapse.

Importing the package costs nothing; the names below are loaded when they are first used. They are the most used ones of
:mod:`uncollapse.api`, which lists everything that is public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import RunDirectory, Sweep, compose, hookimpl, registry, train

    __version__: str

__all__ = ["RunDirectory", "Sweep", "compose", "hookimpl", "registry", "train"]


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("uncollapse")
        if name not in __all__:
            raise AttributeError(f"module 'uncollapse' has no attribute {name!r}")
        from . import api

        return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
