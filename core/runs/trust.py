"""The experiment of a run directory, which may come from anybody: what it names runs only for who trusts it."""

from __future__ import annotations

from typing import Any

from ..compose.combinations import components
from ..compose.config import compose
from ..compose.experiment import Experiment
from ..compose.overrides import Overrides
from ..errors import RequestError, in_python
from ..registry import registry
from .directory import RunDirectory

BY_FILE = in_python("--plugin FILE.py", "registry().load_file(PATH)")
TRUST = in_python("--trust", "registry().trusts_runs = True")


def experiment_of(run: RunDirectory, overrides: Overrides = ()) -> Experiment:
    """The experiment that a run trained. Files that were loaded already (``--plugin``) are trusted.

    Raises:
        RequestError: its configuration names other plugin files, or programs that components would start, and
            ``registry().trusts_runs`` is not set: nothing is executed.
        CompositionError: the configuration cannot be composed (any more).
    """
    config = run.read_config()
    _refuse_untrusted(config, run)
    experiment = compose(config, overrides)
    _refuse_programs(experiment, run)
    return experiment


def _refuse_untrusted(config: dict[str, Any], run: RunDirectory) -> None:
    named = config.get("plugins") or []
    files = [str(file) for file in named] if isinstance(named, list) else [str(named)]
    unknown = [file for file in files if file not in registry().files()]
    if unknown and not registry().trusts_runs:
        raise RequestError(
            f"the run's configuration names plugin files, which would be executed: {', '.join(unknown)}",
            str(run.config_file),
            f"look at them; then give {TRUST}, or load each with {BY_FILE}",
        )


def _refuse_programs(experiment: Experiment, run: RunDirectory) -> None:
    """Refuse programs that components would start. Composing an experiment starts none."""
    named = {str(each): None for _, each in components(experiment) if each.component.starts_programs}
    if named and not registry().trusts_runs:
        raise RequestError(
            f"the run's configuration names programs, which would be started: {', '.join(named)}",
            str(run.config_file),
            f"look at them; then give {TRUST}",
        )
