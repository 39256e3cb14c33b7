"""Weights and optimizer state of a DeepSpeed checkpoint are read by DeepSpeed's own converters.

ZeRO shards hold pickled objects and the converters unpickle them, which can run any code: read shards only from people
whom you trust.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ....core.errors import RequestError
from ...training.processes.quiet import quiet_libraries

WHOLE = "mp_rank_00_model_states.pt"
"""File that rank 0 writes: without ZeRO it holds the weights and the optimizer state."""


def shard_folder(directory: Path) -> Path | None:
    """Return the folder that DeepSpeed wrote last in ``directory``, or ``directory`` if it is such a folder."""
    latest = directory / "latest"
    folder = directory / latest.read_text("utf-8").strip() if latest.is_file() else directory
    return folder if any(folder.glob("*_optim_states.pt")) or (folder / WHOLE).is_file() else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of what trains, in float32 where ZeRO kept them so, by their names in the wrapped module.

    Raises:
        RequestError: DeepSpeed cannot convert the shards.
    """
    with _converting(folder):
        if not any(folder.glob("*_optim_states.pt")):
            return _model_states(folder)["module"]
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(
            str(folder.parent), tag=folder.name, exclude_frozen_parameters=True
        )


def read_optimizer(folder: Path) -> Any:
    """Return ``{state: {name: {step, exp_avg, exp_avg_sq}}, param_groups}``; without ZeRO as torch's AdamW has it.

    Raises:
        RequestError: DeepSpeed cannot convert the shards.
    """
    with _converting(folder), tempfile.TemporaryDirectory() as temporary:
        if not any(folder.glob("*_optim_states.pt")):
            return _model_states(folder)["optimizer"]
        from deepspeed.checkpoint import ds_to_universal

        universal = Path(temporary) / folder.name
        ds_to_universal.main(
            SimpleNamespace(
                input_folder=str(folder),
                output_folder=str(universal),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
        return _read_universal(universal / "zero", _model_states(folder)["param_shapes"])


def _read_universal(zero: Path, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    """Read a universal checkpoint, which has one folder per parameter.

    Args:
        shapes: the shapes of each parameter group's parameters, by name.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum

    with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum]):
        common = torch.load(zero / "optimizer_state.pt", map_location="cpu", weights_only=True)
    groups = []
    for group in common["param_groups"]:
        groups.append({key: value for key, value in group.items() if key != "params"})
    if len(groups) != len(shapes):  # ZeRO 3 splits large groups
        if any(group != groups[0] for group in groups):
            raise ValueError(f"{len(shapes)} groups of shards cannot be matched with {len(groups)} parameter groups")
        groups = groups[:1] * len(shapes)
    steps = {float(state["step"]) for state in common.get("optimizer_state_dict", {}).get("state", {}).values()}
    state = {}
    for name, shape in chain.from_iterable(group.items() for group in shapes):
        folder = zero / name
        # ZeRO 3 leaves the moments flat
        state[name] = {key: _tensor(folder / f"{key}.pt").reshape(shape) for key in ("exp_avg", "exp_avg_sq")}
        if (folder / "step.pt").exists():
            state[name]["step"] = _tensor(folder / "step.pt")
        elif len(steps) == 1:
            state[name]["step"] = min(steps)
    return {
        "state": state,
        "param_groups": [{**group, "params": list(names)} for group, names in zip(groups, shapes, strict=True)],
    }


def _tensor(file: Path) -> Any:
    saved = torch.load(file, map_location="cpu", weights_only=True)
    return saved["param"] if isinstance(saved, dict) else saved


def _model_states(folder: Path) -> Any:
    return torch.load(min(folder.glob("*mp_rank_00_model_states.pt")), map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _converting(folder: Path) -> Iterator[None]:
    """Run DeepSpeed's converters without their prints, and turn whatever they raise into one error."""
    quiet_libraries()
    failures = (OSError, ValueError, LookupError, AssertionError, RuntimeError, EOFError, pickle.UnpicklingError)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except failures as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(
            f"the checkpoint of DeepSpeed cannot be converted: {reason}",
            str(folder),
            "give the folder that engine.save_checkpoint wrote, with all of its files",
        ) from error
