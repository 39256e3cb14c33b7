"""math-verify is asked in a separate process: an answer that takes too much time or memory costs that process alone."""

from __future__ import annotations

import atexit
import importlib.util
from functools import lru_cache

from ...core.asked_process import AskedProcess
from ...core.errors import MissingExtraError

_ASKED = AskedProcess(f"{__package__}.math_worker", "verifier: math", wait=60.0)
atexit.register(_ASKED.end)


@lru_cache(maxsize=4096)
def equal(right: str, answer: str) -> bool | str | None:
    """Say whether two expressions in LaTeX are equal, by math-verify.

    Returns:
        Whether they are equal; ``None`` if the answer cannot be read within the limits; ``"right"`` if the right
        answer cannot be read.

    Raises:
        MissingExtraError: math-verify is not installed.
        RunError: the process cannot be started.
    """
    if _ASKED.worker is None:
        _require()
    verdict: bool | str | None = _ASKED.ask([right, answer])
    return verdict


def _require() -> None:
    """Raise MissingExtraError if math-verify is not installed."""
    try:
        spec = importlib.util.find_spec("math_verify")
    except ValueError:
        spec = None
    if spec is None:
        raise MissingExtraError(
            "math-verify is not installed", "verifier: math", "pip install 'uncollapse[train]', or use verifier: exact"
        )
