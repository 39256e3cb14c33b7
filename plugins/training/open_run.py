"""The directory of a run is opened before it trains: a new one is created, an old one repaired and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.compose.blame import blaming
from ...core.compose.combinations import components
from ...core.compose.config import to_dict
from ...core.compose.experiment import Experiment
from ...core.compose.identity import STEPS
from ...core.console.streams import say
from ...core.registry import registry
from ...core.runs.checkpoints import step_of
from ...core.runs.directory import RunDirectory, build_manifest
from ...core.runs.repair import mend, repair
from ...core.runs.resumption import OVERRULE, STOPPED, Resumption, resumption
from ...core.runs.sources import DATA, other_data
from .processes.ranks import gpu_names
from .prompts import require_rooms
from .session import Outcome
from .step.stages import lr_scale


def create_run(experiment: Experiment, path: Path) -> RunDirectory:
    """Create the directory of a new run. Raises RequestError if it holds a run."""
    run = RunDirectory.create(path, to_dict(experiment), _made_with(experiment))
    run.remove_leftovers()
    return run


def resume_run(experiment: Experiment, path: Path, further: bool = False, overrule: bool = False) -> RunDirectory:
    """Open a run directory to go on in it; print which checkpoint is used, which ones are damaged, and what changes.

    Args:
        further: whether the run may get another number of steps; see :func:`.resumption.resumption`.
        overrule: whether it goes on although a detector has stopped it; see there.

    Raises:
        RequestError: the run cannot go on with this experiment, or a prompt of its further steps leaves no room for a
            turn.
    """
    config = to_dict(experiment)
    for line in mend(path, config):
        tell(RunDirectory(path), line)
    # asked before anything is repaired, so that a refusal leaves the records as they are
    resumption(path, config, further, overrule)
    run = RunDirectory(path)
    repaired = repair(run)
    if repaired:
        tell(run, repaired)
    taken_up = resumption(path, config, further, overrule)
    if not taken_up.ended:
        require_rooms(experiment)
        for line in [*taken_up.words(), *_of_schedules(taken_up, experiment)]:
            tell(run, line)
        made_with = _made_with(experiment)
        for line in other_data(run.manifest(), made_with):
            tell(run, line)
        taken_up.apply(made_with)
    for broken, reason in run.broken_checkpoints():
        tell(run, f"checkpoint {broken.name} is damaged and is not used: {reason}")
    outcome = ended(run)
    if outcome:
        stopped = outcome.status.startswith(STOPPED)
        way_on = f"; to go on all the same: {OVERRULE}" if stopped else ""
        tell(run, f"nothing to resume: the run ended with {outcome.status}{way_on}")
    elif run.status().get("status") != "queued":
        latest = run.latest()
        tell(run, f"resuming from {latest.name}" if latest else "resuming from the start: there is no whole checkpoint")
    return run


def _made_with(experiment: Experiment) -> dict[str, Any]:
    """Return the manifest of a run that is trained here, with hashes of the data that it is trained on."""
    digests = {}
    for key, named in components(experiment):
        if named.kind in ("environment", "toolset"):
            with blaming(named, "digest"):
                digests[key] = named.component.digest
    data = {key: digest for key, digest in digests.items() if digest is not None}
    return {**build_manifest(experiment, registry(), gpu_names()), DATA: data}


def tell(run: RunDirectory, text: str) -> None:
    """Print a line, and write it into the log of the run."""
    say(text)
    run.log(text)


def ended(run: RunDirectory) -> Outcome | None:
    """Return the outcome of a run that is to be resumed but has ended for good, or ``None``."""
    if not run.has_ended():
        return None
    record = run.status()
    return Outcome(record["status"], run.path, record.get("metrics", {}))


def _of_schedules(taken_up: Resumption, experiment: Experiment) -> Iterator[str]:
    """Yield lines on what another number of steps does to the learning rates that decay over all of them."""
    latest = taken_up.run.latest()
    done = step_of(latest) if latest else 0
    optimizers = {"trainer": experiment.trainer, "critic": experiment.critic}
    for key, old, new in taken_up.changes:
        for section, optimizer in optimizers.items() if key == STEPS else ():
            if optimizer is None or optimizer.lr_schedule == "constant":
                continue
            schedule, warmup = optimizer.lr_schedule, optimizer.warmup_steps
            was, becomes = (lr_scale(schedule, warmup, done, int(steps)) for steps in (old, new))
            yield (
                f"{section}.lr_schedule={schedule} decays over {new} steps from here on: step {done + 1} has "
                f"{becomes:.3g} of {section}.lr, where {old} steps would have given it {was:.3g}"
            )
