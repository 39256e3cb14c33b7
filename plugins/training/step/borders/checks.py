"""What every check of a component's results uses: calls that change nothing, shapes, dtypes, finiteness."""

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
from .....core.compose.experiment import Experiment, Named
from .....core.compose.inner import checked_inner

RESERVED = ("train", "validation", "actor", "critic", "rollout", "mismatch")
"""First parts of names of metrics that are the run's own."""

CHECKED: dict[str, Callable[[Named], Any]] = {}
"""Kind -> what checks its components where they stand inside of others; filled by the package (:mod:`.borders`)."""


class Checked(Component):
    """A component and its name, with what a component of any kind says."""

    def __init__(self, named: Named) -> None:
        self.named, self.component = named, checked_inner(named, named.component, CHECKED)
        self.seen = False
        """Whether a first result has been checked."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.named.needs

    def check(self, experiment: Experiment) -> Iterable[str]:
        return self.component.check(experiment)


@contextmanager
def calling(named: Named, method: str, **given: Tensor) -> Iterator[None]:
    """A call of a component, which neither fails without its name nor changes what others still need.

    Raises:
        RunError: it raised something, or changed the process, or one of the tensors that it was ``given``.
    """
    before = contents(given)
    with confined(named, method):
        yield
    for name in changes(given, before):
        raise wrong(named, method, f"changed {name} in place, which others still need: clone it first")


def contents(given: Mapping[str, Tensor]) -> dict[str, tuple[int, Tensor | None]]:
    """What changes with each tensor. On the CPU the numbers too: numpy writes there, and torch does not hear of it."""
    return {
        name: (_version(tensor), tensor.detach().nan_to_num() if tensor.is_cpu else None)
        for name, tensor in given.items()
    }


def changes(given: Mapping[str, Tensor], before: Mapping[str, tuple[int, Tensor | None]]) -> list[str]:
    """The names of the tensors that are no longer what :func:`contents` found."""
    changed = []
    for name, (version, numbers) in before.items():
        same = numbers is None or torch.equal(numbers, given[name].detach().nan_to_num())
        if _version(given[name]) != version or not same:
            changed.append(name)
    return changed


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def tensors(given: Rollouts | ShapingInputs | CreditInputs | LossInputs) -> dict[str, Tensor]:
    """Those of what a component is given, by name."""
    prefix = "rollouts." if isinstance(given, Rollouts) else ""
    fields = attrs.asdict(given, recurse=False)
    return {f"{prefix}{name}": value for name, value in fields.items() if isinstance(value, Tensor)}


def require_number(named: Named, method: str, name: Any, value: Any, finite: bool = True) -> None:
    """Check one number of a metric. That it is finite is looked at once where the GPU would have to be waited for."""
    if not isinstance(name, str):
        raise wrong(named, method, f"gave a metric the name {name!r}, which is no text")
    if name.partition("/")[0] in RESERVED and "/" in name:
        raise wrong(named, method, f"gave a metric the name {name}, which is the run's own")
    if isinstance(value, Tensor) and value.ndim == 0:
        finite = not finite or bool(value.isfinite())
    elif isinstance(value, Real):
        finite = math.isfinite(value)
    else:
        said = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise wrong(named, method, f"gave {said} for the metric {name}, which is not a number")
    if not finite:
        raise wrong(named, method, f"gave {float(value)} for the metric {name}, which is not a finite number")


def require_tensor(
    named: Named, method: str, value: Any, shape: torch.Size, said: str, dtype: torch.dtype | None = None
) -> None:
    if not isinstance(value, Tensor):
        raise wrong(named, method, f"gave {type(value).__name__}, not a tensor")
    if value.shape != shape:
        raise wrong(named, method, f"gave a tensor of shape {list(value.shape)}, not {list(shape)} ({said})")
    if dtype is not None and value.dtype != dtype:
        raise wrong(named, method, f"gave {value.dtype}, not {dtype}")
    if dtype is None and not value.is_floating_point():
        raise wrong(named, method, f"gave {value.dtype}, not floating-point numbers")


def require_finite(named: Named, method: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        places = (~value.isfinite()).nonzero()[:3].tolist()
        raise wrong(named, method, f"gave values that are NaN or infinite, the first at {places}")
