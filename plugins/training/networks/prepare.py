"""Where a run's model comes from: a name or directory, or a local build that is made once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from ....core.console.streams import say
from ....core.errors import RequestError
from ....core.runs.locks import take
from ..processes.quiet import quiet_libraries

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment


def cache_directory() -> Path:
    """``$UNCOLLAPSE_CACHE``, or ``~/.cache/uncollapse``."""
    return Path(os.environ.get("UNCOLLAPSE_CACHE") or Path.home() / ".cache" / "uncollapse")


def prepare_model(experiment: Experiment) -> Path | str:
    """The start model: ``model.path`` as it is, or the directory of the built one.

    A build is kept under a hash of the builder's and the environment's parameters and of the source of both packages,
    and is made by one process at a time.

    Raises:
        RequestError: the builder wrote no model, or the cache cannot be written.
    """
    model = experiment.model
    if model.build is None:
        assert model.path is not None
        return model.path
    builder, environment = model.build.component, experiment.environment.component
    parameters = {
        "builder": [model.build.name, attrs.asdict(builder)],
        "environment": [experiment.environment.name, attrs.asdict(environment)],
        "source": [_source_hash(builder), _source_hash(environment)],
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
            builder.build(partial, environment)
            if not (partial / "config.json").exists():
                raise RequestError(
                    f"model builder {model.build.name!r} wrote no model", str(partial), "see the plugin's author"
                )
            partial.rename(directory)
    return directory


def _source_hash(component: object) -> str:
    """Of every module in the package that defines the component: what it builds may depend on any of them."""
    module = sys.modules[type(component).__module__]
    files = sorted(Path(module.__file__ or "").parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
