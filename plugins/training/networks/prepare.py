"""A run's model comes from a name or directory, or from a builder, whose model is made once and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ....core.compose.blame import blaming
from ....core.console.streams import say
from ....core.errors import RequestError
from ....core.paths import cache_directory
from ....core.runs.locks import take
from ...rollout.dialogue import CheckedDialogue
from ..processes.quiet import quiet_libraries

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment


def prepare_model(experiment: Experiment) -> Path | str:
    """Return the start model: ``model.path`` as it is, or the directory of the built one, which may be made first.

    A build is kept under a hash of the parameters of builder, environment and dialogue and of the source of their
    packages, and is made by one process at a time.

    Raises:
        RequestError: the builder wrote no model, or the cache cannot be written.
        RunError: the builder failed; names it.
    """
    model = experiment.model
    if model.build is None:
        assert model.path is not None
        return model.path
    builder, environment = model.build.component, experiment.environment.component
    parameters = {
        "builder": [model.build.name, attrs.asdict(builder)],
        "environment": [experiment.environment.name, attrs.asdict(environment)],
        "dialogue": [experiment.dialogue.name, attrs.asdict(experiment.dialogue.component)],
        "source": [_source_hash(part) for part in (builder, environment, experiment.dialogue.component)],
    }
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True, default=str).encode()).hexdigest()[:12]
    directory = cache_directory() / "models" / f"{model.build.name}-{digest}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot keep models in {directory.parent}: {error.strerror}"
        raise RequestError(reason, "UNCOLLAPSE_CACHE", "set it to a directory that can be written") from error
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        take(lock, wait=True)
        if not directory.exists():
            partial = directory.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            quiet_libraries()
            say(f"building the start model {model.build.name} in {directory} (once; it is kept there)")
            with blaming(model.build, "build"):
                builder.build(partial, environment, CheckedDialogue(experiment.dialogue))
            if not (partial / "config.json").exists():
                raise RequestError(
                    f"model builder {model.build.name!r} wrote no model", str(partial), "see the plugin's author"
                )
            partial.rename(directory)
    return directory


def with_start_model(experiment: Experiment, path: str) -> Experiment:
    """Return the experiment whose environment is given the start model's path where it asks for ``start``."""
    named = experiment.environment
    asked = {name: path for name in named.component.model_parameters if named.params.get(name) == "start"}
    if not asked:
        return experiment
    placed = attrs.evolve(named, params={**named.params, **asked}, component=attrs.evolve(named.component, **asked))
    return attrs.evolve(experiment, environment=placed)


def _source_hash(component: object) -> str:
    """Hash every module of the package that defines the component: the built model may depend on any of them."""
    module = sys.modules[type(component).__module__]
    files = sorted(Path(module.__file__ or "").parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
