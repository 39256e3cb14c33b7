"""The offline entropy probe: predict the entropy change of the next update, measure the true one, and say how far to
trust both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .probe import OfflineEntropyProbe

__all__ = ["OfflineEntropyProbe"]


def __getattr__(name: str) -> Any:
    # the class needs torch, which listing names must not
    if name == "OfflineEntropyProbe":
        from .probe import OfflineEntropyProbe

        return OfflineEntropyProbe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
