"""What a run goes on with: the experiment that it was begun with, or one that may take its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ..compose.identity import STEPS, beyond_memory, config_hash, differences
from ..errors import RequestError, in_python
from . import checkpoints, records
from .directory import RunDirectory
from .sources import record_attempt
from .status import Status, stopped_by

FURTHER = in_python("--resume --steps N", "resume=True, steps=N")
"""What gives a run another number of steps."""
OVERRULE = in_python("--resume --overrule", "resume=True, overrule=True")
"""What lets a run go on that a detector has stopped."""
STOPPED = stopped_by("")
"""What the status of a run that a detector has stopped begins with."""


@attrs.frozen
class Resumption:
    """A run that is to go on, and what that will change about it; nothing is changed before :meth:`apply`."""

    run: RunDirectory
    config: Mapping[str, Any]
    """The resolved experiment that it goes on with."""
    changes: tuple[tuple[str, str, str], ...] = ()
    """Key, value so far and value from now on, of each setting that changes."""
    overruled: tuple[str, ...] = ()
    """Detectors that have stopped the run, and will not stop it again."""

    @property
    def further(self) -> bool:
        """Whether the run gets another number of steps."""
        return any(key == STEPS for key, _, _ in self.changes)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return self.run.has_ended() and not self.further and not self.overruled

    def words(self) -> list[str]:
        """What changes, as lines of a log."""
        return [
            *(f"resuming with {key}: {old} -> {new}" for key, old, new in self.changes),
            *(f"resuming past the verdict of {name}, which does not stop the run again" for name in self.overruled),
        ]

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Write the changes down, with ``manifest``, which says what the attempt that follows is made with.

        A kill at any moment leaves a run that the same request continues: before the configuration has more steps, the
        status says that the run has not ended.
        """
        run, status = self.run, self.run.status()
        record_attempt(run, {**self._as_record(), **manifest})
        if (self.further or self.overruled) and records.has_ended(status):
            fields = {"verdict": None, "overruled": [*status.get("overruled", []), *self.overruled] or None}
            run.set_status(Status.INTERRUPTED, ended=status.get("ended"), **(fields if self.overruled else {}))
        if self.changes:
            run.restore_config(self.config)
        if status.get("hash") != (digest := config_hash(self.config)):  # also where a kill came before this line
            run.annotate(hash=digest)

    def _as_record(self) -> dict[str, Any]:
        """What the manifest of the run says about the changes."""
        changed = {key: {"from": old, "to": new} for key, old, new in self.changes}
        return {
            **({"changed": changed} if changed else {}),
            **({"overruled": list(self.overruled)} if self.overruled else {}),
        }


def resumption(
    path: str | Path, config: Mapping[str, Any], further: bool = False, overrule: bool = False
) -> Resumption:
    """How the run that is at ``path`` goes on with the resolved experiment ``config``.

    Settings that only take less memory (:data:`~..compose.identity.MEMORY`) may differ, so that a run that was too
    large can go on. A run that has ended keeps the settings that it ran with.

    Args:
        further: the number of steps may differ as well, where the run has done fewer.
        overrule: a run that a detector has stopped goes on.

    Raises:
        RequestError: there is no run, or one of another experiment, or it has done the steps that it is to do now.
    """
    run = RunDirectory.open(path)
    stored = run.read_config()
    others = beyond_memory(stored, config)
    if others == [STEPS] and not further:
        run.refuse_another(config, f"train it further with {FURTHER}, or give another run directory")
    elif others and others != [STEPS]:
        run.refuse_another(config)
    status = run.status()
    stopped = str(status.get("status", "")).startswith(STOPPED)
    if run.has_ended() and (not overrule if stopped else not others):
        return Resumption(run, stored)
    changes = tuple(differences(stored, config))
    if others:
        _refuse_done(run, status, int(config["trainer"]["steps"]))
    return Resumption(run, config, changes, _stoppers(status) if stopped and overrule else ())


def _refuse_done(run: RunDirectory, status: Mapping[str, Any], steps: int) -> None:
    """Raises RequestError if the run has done ``steps`` already."""
    newest = run.latest()
    done = max(int(status.get("step", 0)), checkpoints.step_of(newest) if newest else 0)
    if steps <= done:
        raise RequestError(
            f"the run has done {done} steps already, and {steps} are asked for: no step can be taken back",
            str(run.path),
            f"ask for more than {done} steps, or give another run directory",
        )


def _stoppers(status: Mapping[str, Any]) -> tuple[str, ...]:
    """The detectors that wanted the run to stop, the one that has stopped it first."""
    spoken = [status.get("verdict", {}), *status.get("verdicts", [])]
    names = [str(status["status"]).removeprefix(STOPPED)]
    names += [str(verdict["detector"]) for verdict in spoken if verdict.get("stop") and "detector" in verdict]
    return tuple(dict.fromkeys(names))
