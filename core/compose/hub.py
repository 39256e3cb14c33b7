"""Whether a name that is no folder can be had from the Hugging Face hub, asked once and with little patience.

The libraries ask again and again, for more than a minute, and then say that something is missing.
"""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..paths import is_there, shown_path, unusable

PATIENCE_S = 8.0
"""Seconds for the answer to one question; looking up a host's name has no limit of its own."""


def require(name: str, key: str) -> None:
    """See that a model that is not on this machine can be downloaded.

    Raises:
        RequestError: it is no directory, no name on the hub, or not downloaded while the hub cannot be reached.
    """
    if reason := refusal(name, "model"):
        fix = "give the path of a directory with a Hugging Face model, or the name of one that can be reached"
        raise RequestError(f"cannot load a model from {shown_path(name)}: {reason}", key, fix)


@functools.cache
def refusal(name: str, kind: str) -> str:
    """Say why a ``model`` or ``dataset`` cannot be had; empty if it can, or if the library itself will say so at once.

    Where it has been downloaded and the hub cannot be reached, this process asks the hub no more.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined, unused-ignore]  # no __all__

    if reason := unusable(name):
        return f"it {reason}"
    if name.startswith(("/", ".", "~")) or is_there(name):
        return "there is no such directory"
    try:
        validate_repo_id(name)
    except HFValidationError:
        return "there is no such directory, and it cannot be a name on the hub"
    if constants.HF_HUB_OFFLINE:
        is_here = kind == "dataset" or _downloaded(name, kind)
        return "" if is_here else "there is no such directory, and the hub is switched off (HF_HUB_OFFLINE)"
    answer = _ask(name, kind)
    if answer == "unreachable" and _downloaded(name, kind):
        constants.HF_HUB_OFFLINE = True  # for the rest of this process
        return ""
    return {
        "there": "",
        "unreachable": "there is no such directory, and the hub cannot be reached",
        "missing": f"there is no such directory, and no such {kind} on the hub that you may read",
    }[answer]


def _downloaded(name: str, kind: str) -> bool:
    """Whether the cache has some revision of it."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "snapshots"
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")
    return any(snapshots.glob("*/*")) or (kind == "dataset" and any(prepared.glob(f"{name.replace('/', '___')}*")))


def _ask(name: str, kind: str) -> str:
    """Ask the hub; it answers ``there``, ``missing`` or ``unreachable``."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    answers: list[str] = []

    def ask() -> None:
        try:
            HfApi().repo_info(name, repo_type=kind, timeout=PATIENCE_S)
        except RepositoryNotFoundError:
            answers.append("missing")
        except HfHubHTTPError as error:
            status: Any = getattr(error.response, "status_code", 500)
            answers.append("unreachable" if status >= 500 else "there")  # a gate: the library says what to do
        except Exception:  # of whichever library makes the connection
            answers.append("unreachable")
        else:
            answers.append("there")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return answers[0] if answers else "unreachable"
