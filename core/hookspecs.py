"""Every hook that a plugin can implement.

Two families. *Registration hooks* run when the registry is built: each is given ``register`` and calls it once per
name,

    @hookimpl
    def register_rollout_filters(register):
        register("top_p", "uncollapse.filters.top_p:TopP", summary="keep the groups that carry a share p of the mass")

where the target is an object or a ``"module:attribute"`` string (strings keep listing light: nothing is imported until
the name is used) and ``aliases=("other",)`` adds spellings. There is one such hook for each kind of :mod:`.kinds`:
``register_environments``, ``register_policy_losses`` and so on. A command of ``uncollapse`` is a kind, too: a plugin
adds one with ``register_commands``, and the target is a click command or group.

*Runtime hooks* run while an experiment trains, on rank 0 only unless their text says otherwise.

A plugin is a module or object with functions marked by :data:`hookimpl`, announced by the entry-point group
``uncollapse`` or by ``--plugin FILE.py``. Registration must not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from .kinds import KINDS, Kind

if TYPE_CHECKING:
    from pathlib import Path

    from .components import Rollouts
    from .compose.experiment import Experiment
    from .runs.directory import RunDirectory
    from .targets import Target

PROJECT = "uncollapse"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What a registration hook is given."""

    def __call__(self, name: str, target: Target, *, summary: str = "", aliases: tuple[str, ...] = ()) -> None:
        """Give ``target`` a name. A name or alias that is taken is refused: the plugin is reported as broken."""


# --- registration: when the registry is built; on every rank; must not import torch ---------------------------------


def _registration_hook(kind: Kind) -> Any:
    def hook(register: Register) -> None: ...

    hook.__name__ = hook.__qualname__ = kind.hook
    contract = f" (:class:`~.components.{kind.contract}`)" if kind.contract else ""
    hook.__doc__ = f"Name {kind.does}{contract}."
    return hookspec(hook)


for _kind in KINDS.values():
    globals()[_kind.hook] = _registration_hook(_kind)


# --- runtime: while an experiment trains; on rank 0; may import torch -----------------------------------------------


@hookspec
def run_started(run: RunDirectory, experiment: Experiment, step: int) -> None:
    """Training begins; ``step`` steps are done already (more than 0 after a resume)."""


@hookspec
def rollouts_collected(run: RunDirectory, step: int, rollouts: Rollouts) -> None:
    """The rollouts of step ``step`` (counted from 1) of all ranks are there; nothing is filtered or trained yet.

    They are those that train: change nothing. After a kill a step may come again, with the same rollouts.
    """


@hookspec
def step_finished(run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
    """Step ``step`` (counted from 1; 0 is the validation before training) is complete, with all of its metrics.

    After a kill a step may come again, with the same numbers.
    """


@hookspec
def validation_finished(run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
    """A validation after step ``step`` is complete (0: before training); its metrics are in ``step_finished`` too."""


@hookspec
def checkpoint_saved(run: RunDirectory, step: int, path: Path) -> None:
    """The checkpoint at ``path`` is complete on disk."""


@hookspec
def run_finished(run: RunDirectory, status: str, metrics: Mapping[str, float]) -> None:
    """The run ended: ``success``, ``stopped:<detector>``, ``failed``, ``interrupted``; ``metrics`` are the last."""
