"""Adam's state of a checkpoint is read by parameter, straight into float32; it is complete and fits, or is refused.

It never goes through ``optimizer.load_state_dict``, which casts the state to the parameters' dtype.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from ....core.errors import RequestError
from .deepspeed_state import read_optimizer
from .optimizer_layout import Slot, assign
from .other_optimizers import other_optimizer

if TYPE_CHECKING:
    from ...training.networks.models import Policy

NAMES = "optimizer_param_names.json"
"""File beside ``optimizer.pt`` with its tensors' names in order, flat or per group, ``<unmatched:i>`` if unknown."""

SETTINGS = ("betas", "eps", "weight_decay")


@attrs.frozen
class AdamSettings:
    """The settings of AdamW for one parameter come from the parameter group that it was saved in."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    amsgrad: bool = False


@attrs.frozen
class Coverage:
    """A coverage says how the saved tensors were matched with the parameters that train."""

    matched: int
    trainable: int
    saved: int
    """Number of tensors that the optimizer lists, with and without state."""
    by: str
    """Way of matching: by names, or by which order."""
    unmatched: tuple[str, ...] = ()

    @property
    def fraction(self) -> float:
        """Share of the parameters that train and are matched; :func:`read_adam_state` returns nothing below 1."""
        return self.matched / self.trainable


@attrs.frozen(eq=False)
class AdamState:
    """Adam's state has the moments of every parameter that trains, by its name in the policy: float32 on the CPU."""

    step: dict[str, float]
    exp_avg: dict[str, Tensor]
    exp_avg_sq: dict[str, Tensor]
    max_exp_avg_sq: dict[str, Tensor] | None
    """Largest second moments of the parameters that were trained with AMSGrad; ``None`` if none was."""
    settings: dict[str, AdamSettings]
    base_lr: float | None
    """The learning rate before its schedule, if the checkpoint has one that is positive and the same for all."""
    coverage: Coverage
    lr: float | None = None
    """The learning rate as it was saved, after its schedule, if it is positive and the same for all."""
    rates: tuple[float, ...] = ()
    """The base learning rates of the parameter groups, each once."""


def read_adam_state(path: Path, policy: Policy) -> AdamState:
    """Read the optimizer state at ``path`` (an ``optimizer.pt``, or a folder that DeepSpeed wrote) for ``policy``.

    ``policy`` is not changed.

    Raises:
        RequestError: the file is missing, damaged or not Adam's; or it does not cover exactly what trains in
            ``policy``, with the same shapes.
    """
    saved = _checked(read_saved(path), path)
    groups, slots = saved["param_groups"], _slots(saved, path)
    states, matched_by = assign(slots, policy, str(path))
    read = {name: _read(name, slot, groups[slot.group], path) for name, slot in states.items()}
    # zeros would make the predicted step as large as 1 / eps
    if not any(bool(moments["exp_avg_sq"].any()) for moments in read.values()):
        raise RequestError(
            "every second moment is zero: the optimizer state was lost, or never used",
            str(path),
            "give the optimizer.pt of a policy that has trained",
        )
    # a group of frozen parameters has a learning rate too, which says nothing of the step
    with_state = {slot.group for slot in states.values()}
    stateful = [group for index, group in enumerate(groups) if index in with_state]
    largest = {name: moments["max_exp_avg_sq"] for name, moments in read.items() if "max_exp_avg_sq" in moments}
    return AdamState(
        step={name: float(slot.state["step"]) for name, slot in states.items()},
        exp_avg={name: moments["exp_avg"] for name, moments in read.items()},
        exp_avg_sq={name: moments["exp_avg_sq"] for name, moments in read.items()},
        max_exp_avg_sq=largest or None,
        settings={name: _settings(groups[slot.group]) for name, slot in states.items()},
        base_lr=_rate(stateful, "initial_lr", "lr"),
        coverage=Coverage(len(states), sum(p.requires_grad for p in policy.parameters()), len(slots), matched_by),
        lr=_rate(stateful, "lr"),
        rates=tuple(sorted(_rates(stateful, "initial_lr", "lr"))),
    )


def read_saved(path: Path) -> Any:
    """Return what ``optimizer.pt`` holds, without unpickling anything but tensors and plain data.

    Raises:
        RequestError: the file is missing, damaged, or holds other objects.
    """
    if path.is_dir():
        return read_optimizer(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RequestError(
            "there is no optimizer state", str(path), "give the path of the checkpoint's optimizer.pt"
        ) from error
    except pickle.UnpicklingError as error:
        raise RequestError(
            "the optimizer state is damaged, or holds objects that are not tensors and plain data",
            str(path),
            "save optimizer.state_dict() with torch.save",
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {(str(error).splitlines() or ['it is cut off'])[0]}"
        fix = "give the file that torch.save made of optimizer.state_dict()"
        raise RequestError(f"the optimizer state cannot be read: {reason}", str(path), fix) from error


def _checked(saved: Any, path: Path) -> dict[str, Any]:
    """Return the saved state. Raises RequestError if it is no optimizer's state, or one of other rules than AdamW's."""
    if not _is_state(saved):
        entries = saved.items() if isinstance(saved, dict) else ()
        inside = next((key for key, value in entries if _is_state(value)), None)
        raise RequestError(
            "this is no state of an optimizer: {state, param_groups} is missing",
            str(path),
            f"save its entry {inside!r} alone" if inside else "give what torch.save(optimizer.state_dict()) wrote",
        )
    if name := other_optimizer(saved):
        raise RequestError(
            f"this is not the state of Adam, but of {name}",
            str(path),
            "the probe predicts AdamW's update from torch's or DeepSpeed's state; train with AdamW",
        )
    for group in saved["param_groups"]:
        _check_group(group, path)
    if not saved["state"]:
        fix = "give a checkpoint that was saved after a step"
        raise RequestError("the optimizer has taken no step yet: there is no state to read", str(path), fix)
    return saved


def _check_group(group: dict[str, Any], path: Path) -> None:
    """Raise RequestError if the parameters of this group are not stepped by the rules of AdamW."""
    fix = "the probe predicts AdamW's update; train with AdamW"
    if group["params"] and not all(key in group for key in SETTINGS):
        what = "this is not the state of Adam: a parameter group has no betas, eps or weight_decay"
        raise RequestError(what, str(path), fix)
    coupled = group.get("decoupled_weight_decay") is False and group.get("weight_decay")
    other_rules = {
        "maximize": group.get("maximize"),
        "coupled weight decay": coupled,
        "no bias correction": group.get("bias_correction") is False,
    }
    if rules := [rule for rule, applies in other_rules.items() if applies]:
        raise RequestError(f"the optimizer has {', '.join(rules)}: it is not AdamW", str(path), fix)


def _is_state(saved: Any) -> bool:
    """Return whether this has the form of ``optimizer.state_dict()``."""
    if not isinstance(saved, dict) or not isinstance(saved.get("state"), dict):
        return False
    groups = saved.get("param_groups") or ()
    return len(groups) > 0 and all(isinstance(group, dict) and "params" in group for group in groups)


def _slots(saved: dict[str, Any], path: Path) -> list[Slot]:
    """Return every tensor that the groups list, in their order."""
    keys = []
    for index, group in enumerate(saved["param_groups"]):
        keys += [(key, index) for key in group["params"]]
    names = _names(saved, keys, path)
    return [
        Slot(key, index, saved["state"].get(key) or {}, name) for (key, index), name in zip(keys, names, strict=True)
    ]


def _names(saved: dict[str, Any], keys: Sequence[tuple[int | str, int]], path: Path) -> Sequence[str | None]:
    """Return the name of each tensor, from the state itself or from a file beside it; ``None`` where it has none."""
    if all(isinstance(key, str) for key, _ in keys):
        return [str(key) for key, _ in keys]
    if all("param_names" in group for group in saved["param_groups"] if group["params"]):
        return list(chain.from_iterable(group.get("param_names", ()) for group in saved["param_groups"]))
    file = path.parent / NAMES
    if not file.exists():
        return [None] * len(keys)
    try:
        parts = json.loads(file.read_text("utf-8"))
        flat = list(chain.from_iterable([part] if isinstance(part, str) else part for part in parts))
    except (ValueError, TypeError) as error:
        raise RequestError(
            "the names of the optimizer's tensors cannot be read",
            str(file),
            "give a list of names per parameter group, or delete the file to go by order",
        ) from error
    if len(flat) != len(keys):
        raise RequestError(
            f"{len(flat)} names are listed, and the optimizer has {len(keys)} tensors",
            str(file),
            "correct the list, or remove it to match by position",
        )
    return [None if name.startswith("<unmatched") else name for name in flat]


def _read(name: str, slot: Slot, group: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the moments of one parameter. Raises RequestError if they are no moments of AdamW."""
    keys = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group.get("amsgrad") else [])]
    if missing := [key for key in ("step", *keys) if key not in slot.state]:
        raise RequestError(
            f"the state of {name} has no {' and no '.join(missing)}; it has {', '.join(slot.state)}",
            str(path),
            "the probe reads the state of torch's AdamW and of DeepSpeed, not of 8-bit or factored optimizers",
        )
    for key in keys:
        moment = slot.state[key]
        if moment.dtype == torch.float16:
            raise RequestError(
                f"{key} of {name} is float16, where small second moments are lost",
                str(path),
                "save the optimizer state in float32",
            )
        if not bool(moment.isfinite().all()) or (key != "exp_avg" and bool((moment < 0).any())):
            fix = "give an earlier checkpoint: this one is damaged, or its training has diverged"
            raise RequestError(f"{key} of {name} holds values that no optimizer makes", str(path), fix)
    return {key: slot.state[key].to(torch.float32) for key in keys}


def _settings(group: dict[str, Any]) -> AdamSettings:
    first, second = map(float, group["betas"])
    return AdamSettings(
        (first, second), float(group["eps"]), float(group["weight_decay"]), bool(group.get("amsgrad", False))
    )


def _rate(groups: Sequence[dict[str, Any]], *keys: str) -> float | None:
    """Return the one positive rate that all groups have, under the first of the keys that each has; else ``None``."""
    rates = _rates(groups, *keys)
    rate = rates.pop()
    return rate if not rates and math.isfinite(rate) and rate > 0 else None


def _rates(groups: Sequence[dict[str, Any]], *keys: str) -> set[float]:
    rates = set()
    for group in groups:
        present = [key for key in keys if key in group]
        rates.add(float(group[present[0]]) if present else 0.0)
    return rates
