"""The built-in environments share stable random numbers, splits by content and names of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

from ...core.errors import RunError
from ...core.stable_random import seeded as seeded
from ...core.stable_random import stable_hash as stable_hash

Split = Literal["all", "train", "validation"]

_DRAWS = 2000
_MORE_ROOM = "give it parameters that leave more room: a larger size, fewer boxes, longer solutions"

T = TypeVar("T")


def split_of(key: str) -> Split:
    """Return ``validation`` for one task in five and ``train`` for the others, by the content ``key`` of the task.

    No task is in both, whatever the seeds.
    """
    return "validation" if stable_hash(key) % 5 == 0 else "train"


def draw_task(
    draw: Callable[[], T | None], key: Callable[[T], str], split: Split, what: str, fix: str = _MORE_ROOM
) -> T:
    """Draw until there is a task (``draw`` may fail and return ``None``) and it belongs to ``split``.

    Raises:
        RunError: there was none in a large number of draws.
    """
    for _ in range(_DRAWS):
        task = draw()
        if task is not None and split in ("all", split_of(key(task))):
            return task
    raise RunError(f"no task was found in {_DRAWS} draws", f"{what}, split {split}", fix)


def action_named(action: str, names: tuple[str, ...]) -> str:
    """Find an action by its name without regard to case. Raises ValueError if there is none."""
    wanted = action.strip().lower()
    for name in names:
        if name.lower() == wanted:
            return name
    raise ValueError(f"{action!r} is not an action; choose one of {', '.join(names)}")


def refuse_after_end(done: bool) -> None:
    """Raise RunError if the episode is over."""
    if done:
        raise RunError("the episode is over", fix="an Env is used once: make a new one with environment.make(seed)")


def feedback(score: float | None) -> str:
    """Tell what a score says of an answer; ``None`` is an answer that has no score."""
    if score is None:
        return "The answer cannot be read."
    if score == 1:
        return "Correct."
    return "Partly right." if score else "Wrong."
