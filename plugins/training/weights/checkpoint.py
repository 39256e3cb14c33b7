"""Checkpoints: ``step_N/{model/, critic/, optimizer.pt, state.json, ...}``, readable by Hugging Face and the probe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from ....core.errors import RESUME, RequestError, RunError
from ....core.runs.checkpoints import reading
from ....core.runs.directory import RunDirectory
from ..networks import shared_critic
from ..networks.models import save_model
from ..step.finished_step import FinishedStep
from . import start_model

if TYPE_CHECKING:
    from ..step.loop import Loop

PREFIX = "model."
"""Where the Hugging Face model sits in our policy module; parameter names on disk are its own."""


def find_checkpoint(path: Path) -> tuple[RunDirectory, Path]:
    """``RUN/checkpoints/step_N`` with its run, or the last good checkpoint of the run directory given.

    Raises:
        RequestError: there is no complete checkpoint there.
    """
    if path.parent.name != "checkpoints":
        run = RunDirectory.open(path)
        latest = run.latest()
        if latest is None:
            raise RequestError("the run has no complete checkpoint", str(path), "train it first, or resume it")
        return run, latest
    run = RunDirectory.open(path.parent.parent)
    if path.resolve() not in [good.resolve() for good in run.checkpoints()]:
        broken = {other.name: why for other, why in run.broken_checkpoints()}
        reason = broken.get(path.name, "it does not exist")
        names = ", ".join(good.name for good in run.checkpoints()) or "none"
        raise RequestError(f"{path.name} is no complete checkpoint: {reason}", str(path), f"complete ones: {names}")
    return run, path


@contextmanager
def reading_checkpoint(path: Path) -> Iterator[tuple[RunDirectory, Path]]:
    """:func:`find_checkpoint`, and the run that trains there does not delete it meanwhile."""
    with ExitStack() as held:
        run, checkpoint = find_checkpoint(path)
        try:
            held.enter_context(reading(checkpoint))
        except RequestError:  # just now, for a newer one
            run, checkpoint = find_checkpoint(path)
            held.enter_context(reading(checkpoint))
        yield run, checkpoint


def save_checkpoint(
    loop: Loop, run: RunDirectory | None, finished: FinishedStep, state: Mapping[str, Any]
) -> Path | None:
    """Write a checkpoint; every rank takes part in gathering, rank 0 (the one with ``run``) writes.

    Args:
        finished: the step that it is of.
        state: that of ``loop`` then, which may have gone on with what leaves the weights alone.

    Raises:
        RunError: there is not enough room on the disk; nothing is written.
        OSError: writing failed; the unfinished checkpoint is removed and earlier ones are intact.
    """
    parts = loop.parts
    shared = parts.critic is parts.policy
    engines = {"model": parts.policy, "critic": None if shared else parts.critic}
    adapter = loop.experiment.model.lora is not None
    gathered = {
        name: ({key: tensor.cpu() for key, tensor in engine.weights(trained=adapter)}, engine.optimizer_state())
        for name, engine in engines.items()
        if engine is not None
    }
    if shared:
        gathered["model"], gathered["critic"] = shared_critic.split(*gathered["model"])
    if run is None:
        return None
    _check_space(run.path, gathered.values())
    whole = {**state, **finished.state()}
    with run.checkpoint(finished.step, whole, finished.judged, loop.experiment.trainer.keep) as directory:
        for name, (weights, optimizer) in gathered.items():
            if shared and name == "critic":
                shared_critic.save_head(weights, directory / name)
            else:
                save_model(engines[name].module, weights, directory / name)
            if name == "model":
                torch.save(_renamed(optimizer, lambda key: key.removeprefix(PREFIX)), directory / "optimizer.pt")
            else:
                torch.save(optimizer, directory / name / "optimizer.pt")
        loop.parts.sampler.template.tokenizer.save_pretrained(directory / "model")
        start_model.save(parts.start_sums, loop.experiment.model.dtype, directory)
        finished.save(directory)
    return run.checkpoint_directory / f"step_{finished.step}"


def load_checkpoint(loop: Loop, directory: Path) -> FinishedStep:
    """Continue where ``directory`` left off (its weights are loaded already); returns the step that it is of."""
    try:
        _load(loop, directory)
        return FinishedStep.load(directory)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, UnpicklingError) as error:
        reason = f"the checkpoint cannot be loaded: {type(error).__name__}: {error}"
        fix = f"move it away and continue with {RESUME} from the one before"
        raise RunError(reason, str(directory), fix) from error


def _load(loop: Loop, directory: Path) -> None:
    policy, critic = loop.parts.policy, loop.parts.critic
    of_policy = _renamed(load_optimizer(directory), lambda key: PREFIX + key)
    of_critic: Any = None if critic is None else load_optimizer(directory / "critic")
    if critic is not None and critic is policy:
        policy.load_optimizer_state(shared_critic.joined(of_policy, of_critic))
    else:
        policy.load_optimizer_state(of_policy)
        if critic is not None:
            critic.load_optimizer_state(of_critic)
    loop.load_state_dict(json.loads((directory / "state.json").read_text("utf-8")))


def _check_space(path: Path, gathered: Iterable[Any]) -> None:
    """Before anything is written: the libraries that write fail on a full disk without saying so."""
    needed, free = 2**20 + int(1.05 * sum(_bytes(item) for item in gathered)), shutil.disk_usage(path).free
    if free < needed:
        raise RunError(
            f"the disk is full: a checkpoint needs {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free",
            str(path),
            f"free some space and continue with {RESUME}; earlier checkpoints are intact",
        )


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(map(_bytes, items))


def _renamed(optimizer: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """An optimizer state by other parameter names."""
    groups = [{**group, "params": [rename(name) for name in group["params"]]} for group in optimizer["param_groups"]]
    by_name = {key: {rename(name): value for name, value in optimizer[key].items()} for key in ("state", "master")}
    return {**by_name, "param_groups": groups}


def load_optimizer(directory: Path) -> Any:
    """``optimizer.pt`` of a checkpoint, or of its critic: ``{state, param_groups, master}``, on the CPU."""
    return torch.load(directory / "optimizer.pt", map_location="cpu", weights_only=True)
