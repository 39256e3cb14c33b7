"""A run's model comes from a name or directory, or from a builder, whose model is made once and kept."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from safetensors import SafetensorError

from ....core.compose.blame import blaming
from ....core.console.streams import say
from ....core.errors import RequestError, RunError
from ....core.files import content_sha256
from ....core.paths import cache_directory
from ....core.runs.locks import take
from ...rollout.dialogue import CheckedDialogue
from ..processes.quiet import quiet_libraries

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment

PART = 1 << 16
"""Bytes of a part of a file that is hashed."""
FULL = os.strerror(errno.ENOSPC)
ROLLOUT = Path(__file__).parents[2] / "rollout"
WARM_START = Path(__file__).parents[1] / "warm_start"


def prepare_model(experiment: Experiment, *, warmed: bool = True) -> Path | str:
    """Return the start model: ``model.path`` as it is, or the directory of one that is made first, once.

    A built model is kept under a hash of the parameters of builder, environment and dialogue, of the source of their
    packages and of the files that the builder reads. A warmed one is kept under a hash of the model before it, of
    ``model.warm_start`` and of all that shapes demonstrations, the source that plays and learns them included. Each is
    made by one process at a time.

    Args:
        warmed: ``False`` leaves out the warm start, for those who only want sizes and texts.

    Raises:
        RequestError: the builder wrote no model, the warm start cannot be made or misses its aim and
            ``model.warm_start.if_missed`` is ``stop``, or the cache cannot be written.
        RunError: the builder failed, and it is named; or the warm start diverged.
    """
    model = experiment.model
    path: Path | str = model.path if model.path is not None else _built(experiment)
    if model.warm_start is None or not warmed:
        return path
    from ..warm_start.warm import identity, require_aim, warm

    base = path.name if isinstance(path, Path) else model_digest(path)

    def make(directory: Path) -> None:
        warm(experiment, path, directory)
        # what the warm start has held on a GPU is the engine's and the trainer's now
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    parts = (experiment.environment, experiment.dialogue)
    sources = [*(_source_hash(part.component) for part in parts), _folder_hash(ROLLOUT), _folder_hash(WARM_START)]
    directory = _kept("warm", identity(experiment, base) | {"source": sources}, make, "warming the start model up")
    require_aim(experiment, directory)
    return directory


def _built(experiment: Experiment) -> Path:
    build, environment, dialogue = experiment.model.build, experiment.environment, experiment.dialogue
    assert build is not None
    builder = build.component
    parts = [build] if builder.for_any_task else [build, environment, dialogue]
    parameters = {
        **{part.kind: [part.name, attrs.asdict(part.component)] for part in parts},
        "source": [
            *(_source_hash(part.component) for part in parts),
            # conversations are what a model or its tokenizer is made from
            *([] if builder.for_any_task else [_folder_hash(ROLLOUT)]),
        ],
        "files": [content_sha256(file) for file in builder.sources()],
    }

    def make(directory: Path) -> None:
        with blaming(build, "build"):
            builder.build(directory, environment.component, CheckedDialogue(dialogue))
        if not (directory / "config.json").exists():
            raise RequestError(
                f"model builder {build.name!r} wrote no model", str(directory), "see the plugin's author"
            )

    return _kept(build.name, parameters, make, f"building the start model {build.name}")


def _kept(name: str, parameters: Mapping[str, Any], make: Callable[[Path], None], what: str) -> Path:
    """Return the directory of the model that ``make`` writes for these parameters, from the cache if it is there."""
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True, default=str).encode()).hexdigest()[:12]
    directory = cache_directory() / "models" / f"{name}-{digest}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with (directory.parent / f"{directory.name}.lock").open("w") as lock:
            take(lock, wait=True)
            if not directory.exists():
                quiet_libraries()
                say(f"{what} in {directory} (once; it is kept there)")
                _write(directory, make)
    except (OSError, SafetensorError, RunError) as error:
        cause = error.__cause__ if isinstance(error, RunError) else error
        # safetensors tells the number of an error of the system in words only
        if isinstance(error, RunError) and FULL not in str(cause):
            raise
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        where, fix = "UNCOLLAPSE_CACHE", "set it to a directory that can be written, on a disk with room"
        raise RequestError(f"cannot keep models in {directory.parent}: {reason}", where, fix) from error
    return directory


def _write(directory: Path, make: Callable[[Path], None]) -> None:
    """Make a model in another place and move it into ``directory``, so that a kill or an error leaves no part of it."""
    partial = directory.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def model_digest(path: str) -> str:
    """Hash what a model is, by its files' names, sizes and the first, middle and last 64 KiB of each.

    A name of the hub stands for itself, with the commit that is in the local cache.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        return f"{path} {try_to_load_from_cache(path, 'config.json')}"
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.iterdir() if each.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for start in (0, size // 2, max(0, size - PART)):
                opened.seek(start)
                digest.update(opened.read(PART))
    return digest.hexdigest()


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
    return _folder_hash(Path(module.__file__ or "").parent)


def _folder_hash(folder: Path) -> str:
    """Hash the modules in a folder."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.glob("*.py")))).hexdigest()
