"""The laws of trackers are tried on the directory of an invented run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...core.calling import call, manager
from ...core.compose.blame import confined
from ...core.compose.config import to_dict
from ...core.compose.named import Named
from ...core.plugins import check_hooks
from ...core.registry import registry
from ...core.runs.directory import RunDirectory, build_manifest
from ..problems import laws, require
from .detectors import experiment_that_learns, recorded


@contextmanager
def _run() -> Iterator[RunDirectory]:
    experiment = experiment_that_learns()
    with TemporaryDirectory() as folder:
        config = to_dict(experiment)
        yield RunDirectory.create(Path(folder) / "run", config, build_manifest(experiment, registry()))


def _hears(named: Named) -> None:
    """A tracker's session has runtime hooks, each of them marked and spelt right."""
    with _run() as run:
        _session(named, run)


def _session(named: Named, run: RunDirectory) -> Any:
    with confined(named, "start"):
        session = named.component.start(run)
    for error in check_hooks(session, "its session"):
        require(named, "start", False, f"gave a session with a mistake: {error.what}", error.fix)
    return session


def _follows_a_run(named: Named) -> None:
    """A tracker takes all that a run reports, also a step that is reported twice, and a resume."""
    with _run() as run:
        experiment = experiment_that_learns()
        for begun in (0, 2):
            told = manager([], [_session(named, run)])

            def tell(hook: str, told: Any = told, **arguments: Any) -> None:
                call(told, hook, run=run, **arguments)

            tell("run_started", experiment=experiment, step=begun)
            for step in range(begun, begun + 3):
                tell("validation_finished", step=step, metrics={"validation/success": 0.3})
                tell("step_finished", step=step, metrics=recorded(step))
                tell("checkpoint_saved", step=step, path=run.path / "checkpoints" / f"step_{step}")
            tell("run_finished", status="success", metrics=recorded(step))


LAWS = {"tracker": laws(_hears, _follows_a_run, reaches_out=True)}
