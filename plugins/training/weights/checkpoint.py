"""A checkpoint is ``step_N/{model/, critic/, optimizer.pt, state.json, ...}``, read by Hugging Face and the probe."""

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
from . import reference, start_model

if TYPE_CHECKING:
    from ..step.loop import Loop

PREFIX = "model."
"""Beginning of the names of the Hugging Face model's parameters in our policy; on disk they stand without it."""


def find_checkpoint(path: Path) -> tuple[RunDirectory, Path]:
    """Find ``RUN/checkpoints/step_N`` and its run, or the last good checkpoint of the run directory given.

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
    """Find a checkpoint as :func:`find_checkpoint` does, and keep the run that trains there from deleting it."""
    with ExitStack() as held:
        run, checkpoint = find_checkpoint(path)
        try:
            held.enter_context(reading(checkpoint))
        except RequestError:
            # the run has just deleted it, because it has a newer one
            run, checkpoint = find_checkpoint(path)
            held.enter_context(reading(checkpoint))
        yield run, checkpoint


def save_checkpoint(
    loop: Loop, run: RunDirectory | None, finished: FinishedStep, state: Mapping[str, Any]
) -> Path | None:
    """Write a checkpoint; every rank takes part in gathering, and rank 0 (the one with ``run``) writes.

    Args:
        loop: the loop whose weights and optimizers are written.
        run: the run directory, on rank 0 only.
        finished: the step of the checkpoint.
        state: the state of ``loop`` after that step. The loop may have gone on, but not changed the weights.

    Returns:
        The directory of the checkpoint, on rank 0.

    Raises:
        RunError: there is not enough room on the disk; nothing is written.
        OSError: writing failed; the unfinished checkpoint is removed and earlier ones are intact.
    """
    gathered = _gather(loop)
    if run is None:
        return None
    moved = {} if loop.parts.reference is None else loop.parts.reference.weights()
    _check_space(run.path, [*gathered.values(), moved])
    whole = {**state, **finished.state()}
    with run.checkpoint(finished.step, whole, finished.judged, loop.experiment.trainer.keep) as directory:
        _save_networks(loop, gathered, directory)
        loop.parts.sampler.template.tokenizer.save_pretrained(directory / "model")
        if loop.experiment.model.lora is not None or not moved:  # else nothing rests on the start model any more
            start_model.save(loop.parts.start_sums, loop.experiment.model.dtype, directory)
        reference.save(moved, directory)
        finished.save(directory)
    return run.checkpoint_directory / f"step_{finished.step}"


def _has_shared_critic(loop: Loop) -> bool:
    """Say whether the critic is a head on the policy, so that one engine trains both."""
    return loop.parts.critic is loop.parts.policy


def _gather(loop: Loop) -> dict[str, Any]:
    """Gather weights and optimizer state of ``model`` and ``critic``, in full; every rank takes part."""
    parts = loop.parts
    only_adapter = loop.experiment.model.lora is not None
    engines = {"model": parts.policy}
    if parts.critic is not None and not _has_shared_critic(loop):
        engines["critic"] = parts.critic
    gathered = {}
    for name, engine in engines.items():
        weights = {key: tensor.cpu() for key, tensor in engine.weights(trained=only_adapter)}
        gathered[name] = weights, engine.optimizer_state()
    if _has_shared_critic(loop):
        gathered["model"], gathered["critic"] = shared_critic.split(*gathered["model"])
    return gathered


def _save_networks(loop: Loop, gathered: Mapping[str, Any], directory: Path) -> None:
    """Write what was gathered into a checkpoint's directory."""
    weights, optimizer = gathered["model"]
    save_model(loop.parts.policy.module, weights, directory / "model")
    torch.save(_renamed(optimizer, lambda key: key.removeprefix(PREFIX)), directory / "optimizer.pt")
    if "critic" in gathered:
        critic: Any = loop.parts.critic
        weights, optimizer = gathered["critic"]
        if _has_shared_critic(loop):
            shared_critic.save_head(weights, directory / "critic")
        else:
            save_model(critic.module, weights, directory / "critic")
        torch.save(optimizer, directory / "critic" / "optimizer.pt")


def load_checkpoint(loop: Loop, directory: Path) -> FinishedStep:
    """Load optimizers and the loop's state from a checkpoint, whose weights are loaded already; return its step.

    Raises:
        RunError: the checkpoint cannot be loaded.
    """
    try:
        _load(loop, directory)
        return FinishedStep.load(directory)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, UnpicklingError) as error:
        reason = f"the checkpoint cannot be loaded: {type(error).__name__}: {error}"
        fix = f"move it away and continue with {RESUME} from the one before"
        raise RunError(reason, str(directory), fix) from error


def _load(loop: Loop, directory: Path) -> None:
    policy, critic = loop.parts.policy, loop.parts.critic
    policy_state = _renamed(load_optimizer(directory), lambda key: PREFIX + key)
    critic_state: Any = None if critic is None else load_optimizer(directory / "critic")
    if critic is not None and critic is policy:
        policy.load_optimizer_state(shared_critic.joined(policy_state, critic_state))
    else:
        policy.load_optimizer_state(policy_state)
        if critic is not None:
            critic.load_optimizer_state(critic_state)
    loop.load_state_dict(json.loads((directory / "state.json").read_text("utf-8")))


def _check_space(path: Path, gathered: Iterable[Any]) -> None:
    """Raise RunError, before anything is written, if the disk has too little room.

    The libraries that write fail on a full disk without saying so.
    """
    # tokenizer, configuration and state are small files, for which 1 MiB and 5 % are added
    needed = 2**20 + int(1.05 * sum(_bytes(item) for item in gathered))
    free = shutil.disk_usage(path).free
    if free < needed:
        raise RunError(
            f"the disk is full: a checkpoint needs {needed / 2**20:.1f} MiB and {free / 2**20:.1f} MiB are free",
            str(path),
            f"free some space and continue with {RESUME}; earlier checkpoints are intact",
        )


def _bytes(value: Any) -> int:
    """Add up the bytes of all tensors in nested mappings and sequences."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_bytes(item) for item in value)
    return 0


def _renamed(optimizer: dict[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Return an optimizer state by other parameter names."""
    groups = [{**group, "params": list(map(rename, group["params"]))} for group in optimizer["param_groups"]]
    state = {rename(name): value for name, value in optimizer["state"].items()}
    master = {rename(name): value for name, value in optimizer["master"].items()}
    return {"state": state, "master": master, "param_groups": groups}


def load_optimizer(directory: Path) -> Any:
    """Load ``optimizer.pt`` of a checkpoint, or of its critic: ``{state, param_groups, master}``, on the CPU."""
    return torch.load(directory / "optimizer.pt", map_location="cpu", weights_only=True)
