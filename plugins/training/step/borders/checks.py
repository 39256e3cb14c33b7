"""Checks that all wrappers use: of tensors that must not change, of shapes, dtypes and finiteness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from typing import Any

import attrs
import torch
from torch import Tensor

from .....core.components import Component, CreditInputs, LossInputs, Rollouts, ShapingInputs
from .....core.compose.blame import confined, wrong
from .....core.compose.experiment import Experiment
from .....core.compose.inner import checked_inner
from .....core.compose.named import Named

RESERVED = ("train", "validation", "actor", "critic", "rollout", "reference", "mismatch", "advantage", "reward")
"""First parts of names of metrics that are the run's own."""

CHECKED: dict[str, Callable[[Named], Any]] = {}
"""Kind -> the wrapper of its components where they are parts of others; filled by the package (:mod:`.borders`)."""


class Checked(Component):
    """A wrapper around a component, with the attributes that components of every kind have."""

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, checked_inner(named, named.component, CHECKED)
        self.seen = False
        """Whether a first result has been checked already."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.named.needs

    def check(self, experiment: Experiment) -> Iterable[str]:
        return self.component.check(experiment)


@contextmanager
def calling(named: Named, method: str, **given: Tensor) -> Iterator[None]:
    """Call a component in the block, so that any error names it and tensors that others need stay unchanged.

    Raises:
        RunError: it raised an error, changed the process, or changed one of the tensors that it was ``given``.
    """
    before = contents(given)
    with confined(named, method):
        yield
    for name in changes(given, before):
        raise wrong(named, method, f"changed {name} in place, which others still need: clone it first")


def contents(given: Mapping[str, Tensor]) -> dict[str, tuple[int, Tensor | None]]:
    """Return what shows that a tensor has changed: its version, and on the CPU also its numbers.

    numpy can write to memory of the CPU without a new version.
    """
    return {
        name: (_version(tensor), tensor.detach().nan_to_num() if tensor.is_cpu else None)
        for name, tensor in given.items()
    }


def changes(given: Mapping[str, Tensor], before: Mapping[str, tuple[int, Tensor | None]]) -> list[str]:
    """Return the names of the tensors that have changed since :func:`contents`."""
    changed = []
    for name, (version, numbers) in before.items():
        same = numbers is None or torch.equal(numbers, given[name].detach().nan_to_num())
        if _version(given[name]) != version or not same:
            changed.append(name)
    return changed


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def tensors(given: Rollouts | ShapingInputs | CreditInputs | LossInputs) -> dict[str, Tensor]:
    """Return the tensors among the inputs of a component, by name."""
    prefix = "rollouts." if isinstance(given, Rollouts) else ""
    fields = attrs.asdict(given, recurse=False)
    held = {f"{prefix}{name}": value for name, value in fields.items() if isinstance(value, Tensor)}
    if isinstance(given, Rollouts | CreditInputs):
        held |= {f"{prefix}rewards_by_name[{name!r}]": value for name, value in given.rewards_by_name.items()}
    return held


def require_number(named: Named, method: str, name: Any, value: Any, finite: bool = True) -> None:
    """Check one number of a metric, and where ``finite`` is true also that it is finite."""
    if not isinstance(name, str):
        raise wrong(named, method, f"gave a metric the name {name!r}, which is no text")
    if name.partition("/")[0] in RESERVED and "/" in name:
        raise wrong(named, method, f"gave a metric the name {name}, which is the run's own")
    if isinstance(value, Tensor) and value.ndim == 0:
        finite = not finite or bool(value.isfinite())
    elif isinstance(value, Real):
        finite = math.isfinite(value)
    else:
        shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise wrong(named, method, f"gave {shown} for the metric {name}, which is not a number")
    if not finite:
        raise wrong(named, method, f"gave {float(value)} for the metric {name}, which is not a finite number")


def require_tensor(
    named: Named, method: str, value: Any, shape: torch.Size, letters: str, dtype: torch.dtype | None = None
) -> None:
    """Check shape and dtype of a tensor; without ``dtype`` it must be floating-point. ``letters`` name the shape."""
    if not isinstance(value, Tensor):
        raise wrong(named, method, f"gave {type(value).__name__}, not a tensor")
    if value.shape != shape:
        raise wrong(named, method, f"gave a tensor of shape {list(value.shape)}, not {list(shape)} ({letters})")
    if dtype is not None and value.dtype != dtype:
        raise wrong(named, method, f"gave {value.dtype}, not {dtype}")
    if dtype is None and not value.is_floating_point():
        raise wrong(named, method, f"gave {value.dtype}, not floating-point numbers")


def require_finite(named: Named, method: str, value: Tensor) -> None:
    """Check that all numbers of a tensor are finite."""
    if not bool(value.isfinite().all()):
        places = (~value.isfinite()).nonzero()[:3].tolist()
        raise wrong(named, method, f"gave values that are NaN or infinite, the first at {places}")
