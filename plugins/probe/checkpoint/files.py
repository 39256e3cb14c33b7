"""The parts of a checkpoint are found here: model or adapter, optimizer state, and what the model started from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from ....core.errors import RequestError
from ....core.runs import checkpoints
from ....core.runs.directory import RunDirectory
from ....core.runs.trust import experiment_of
from ..legacy_keys import backbone_path
from .deepspeed_state import shard_folder

ADAPTER = "adapter_config.json"
OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
"""Names of the file with the optimizer state; accelerate writes the second."""


@attrs.frozen
class Files:
    """A checkpoint on disk has these parts."""

    directory: Path
    model_path: Path
    optimizer_path: Path

    @property
    def adapter(self) -> dict[str, Any] | None:
        """Settings of the adapter; ``None`` for a full model."""
        return read_json(self.model_path / ADAPTER)

    @property
    def sharded(self) -> bool:
        """Whether DeepSpeed wrote the checkpoint, in shards."""
        return self.optimizer_path.is_dir()


def find_checkpoint(path: str | Path, optimizer_path: str | Path | None = None) -> Files:
    """Find the files of the checkpoint at ``path``.

    ``path`` is a checkpoint directory, with the model in ``model/`` or directly in it, the ``model`` directory itself,
    a link to one of these, or the directory of a run, which stands for its newest complete checkpoint.

    Raises:
        RequestError: there is no such directory, no model or adapter in it, no optimizer state with it, or a file of
            it is damaged.
    """
    named = Path(path).expanduser()
    if not named.is_dir():
        raise RequestError("there is no such checkpoint directory", str(named), "give an existing directory")
    directory = (named.parent if named.name == "model" and _has_model(named) else named).resolve()
    if (directory / "config.yaml").is_file() and (directory / "checkpoints").is_dir():
        directory = _newest(RunDirectory(directory))
    # only checkpoints of this package have a state.json, and can tell whether they are whole
    elif (directory / "state.json").is_file() and (reason := checkpoints.damage(directory)):
        raise RequestError(f"the checkpoint is damaged: {reason}", str(directory), "give an earlier checkpoint")
    inside = (directory / "model", directory)
    model_path = next((place for place in inside if _has_model(place)), None)
    shards = shard_folder(directory)
    if model_path is None and shards is None:
        entries = ", ".join(sorted(entry.name for entry in directory.iterdir())[:8]) or "nothing"
        newest = _newest_of_others(directory)
        raise RequestError(
            f"the checkpoint has neither an adapter nor a model: there is {entries}",
            str(directory),
            f"give {newest}" if newest else f"give a directory with {ADAPTER} or config.json in it or in its model/",
        )
    model_path = model_path or directory
    return Files(directory, model_path, _optimizer(directory, model_path, shards, optimizer_path))


def run_directory(checkpoint: Path) -> Path | None:
    """Return the directory of the run of this package that wrote the checkpoint at this path, if one did."""
    checkpoint = checkpoint.expanduser().resolve()
    places = (checkpoint, *checkpoint.parents[:3])
    return next((p for p in places if (p / "config.yaml").is_file() and (p / "checkpoints").is_dir()), None)


def _has_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in (ADAPTER, "config.json"))


def _newest(run: RunDirectory) -> Path:
    if latest := run.latest():
        return latest
    broken = "; ".join(f"{path.name}: {reason}" for path, reason in run.broken_checkpoints())
    raise RequestError(
        "the run has no complete checkpoint" + (f" ({broken})" if broken else ""),
        str(run.path),
        "train it first, or resume it",
    )


def _optimizer(directory: Path, model_path: Path, shards: Path | None, named: str | Path | None) -> Path:
    """Return the optimizer state: the one that was named, or else one in or beside the model, or else the shards."""
    if named is not None:
        file = Path(named).expanduser()
        candidates = [file, *(file / name for name in OPTIMIZERS)]
        shards = shard_folder(file)
    else:
        candidates = [directory / name for name in OPTIMIZERS] + [model_path / name for name in OPTIMIZERS]
        if shards is None and model_path == directory:  # beside a model that has a directory of its own
            candidates += [directory.parent / name for name in OPTIMIZERS]
    state = next((file for file in candidates if file.is_file()), shards)
    if state is None:
        _refuse_fsdp(directory)
        inside = directory.glob("*/optimizer.pt") if named is None else ()
        below = min((path for path in inside if path.parent.name != "critic"), default=None)
        raise RequestError(
            "the checkpoint has no optimizer state; looked for " + ", ".join(dict.fromkeys(map(str, candidates))),
            str(directory),
            f"give {below.parent}, or the path of its optimizer.pt" if below else "give the path of its optimizer.pt",
        )
    return state


def _newest_of_others(directory: Path) -> Path | None:
    """Return the newest ``checkpoint-N`` in the output directory of a Hugging Face Trainer."""
    numbered = {path: path.name.rpartition("-")[2] for path in directory.glob("checkpoint-*") if _has_model(path)}
    counted = {path: int(number) for path, number in numbered.items() if number.isdecimal()}
    return max(counted, key=lambda path: counted[path], default=None)


def _refuse_fsdp(directory: Path) -> None:
    """Raise RequestError if FSDP has left its shards in the directory."""
    shards = next((path.parent for path in directory.glob("*/*.distcp")), None)
    if shards is not None:
        raise RequestError(
            "the optimizer state is sharded by FSDP, which the probe does not read",
            str(shards),
            "gather it in training: save with fsdp_state_dict_type FULL_STATE_DICT, and give its optimizer.bin",
        )


def start_model(files: Files, backbone: str | None) -> tuple[str, str]:
    """Return the directory or hub name of a full model or of an adapter's base model, and a note on who says so.

    Where DeepSpeed has every weight of a full model, the base gives no more than the architecture.

    Raises:
        RequestError: nothing says which model it is, or a full model's weights are missing.
    """
    if files.adapter is None and any(files.model_path.glob("*.safetensors")):
        return str(files.model_path), ""
    if files.adapter is None and not files.sharded:
        raise RequestError("the checkpoint has no model.safetensors", str(files.model_path), "save the model as such")
    surest = next(_starts(files, backbone), None)
    if surest is None:
        raise RequestError(
            "the checkpoint does not say what its base model is",
            str(files.model_path),
            "give it as backbone: a hub name or a directory",
        )
    start, source = surest
    wanted = backbone_path(backbone) if backbone else start
    unused = f"; the backbone {backbone} was not used" if wanted != start else ""
    return start, f"base model: {start}, from {source}{unused}"


def _starts(files: Files, backbone: str | None) -> Iterator[tuple[str, str]]:
    """Yield base models, each with its source, the surest first; a local model is surer than one that is built anew."""
    recorded = (files.adapter or {}).get("base_model_name_or_path") or ""
    if recorded and Path(recorded).is_dir():
        yield recorded, ADAPTER
    run = files.directory.parent.parent
    if files.directory.parent.name == "checkpoints" and (run / "config.yaml").is_file():
        from ...training.networks.prepare import prepare_model

        yield str(prepare_model(experiment_of(RunDirectory(run)))), "the run's config.yaml"
    if recorded and not recorded.startswith(("/", ".")):
        yield recorded, ADAPTER
    if backbone:
        yield backbone_path(backbone), "backbone"


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file, ``None`` if there is no such file. Raises RequestError if it is damaged."""
    if not file.is_file():
        return None
    try:
        read = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise RequestError("the file is damaged", str(file), "give another checkpoint") from error
    if not isinstance(read, dict):
        raise RequestError("the file is damaged: it is no record", str(file), "give another checkpoint")
    return read
