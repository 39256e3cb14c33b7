"""Runs of a sweep share GPUs: each gets an equal part of the memory, and a sweep whose runs do not fit never starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ...core.components import Launcher
from ...core.errors import RequestError, in_python
from ...core.gpu_share import GIB, variables
from ..training.memory import cards

if TYPE_CHECKING:
    from ..training.memory.fitting import Request
    from .skip_or_resume import Prepared

PerGpu = int | Literal["auto"] | None
OPTION = in_python("--per-gpu", "per_gpu")
CARD = in_python("--gpu-gib GIB", "gpu_gib=GIB")


@attrs.frozen
class Sharing:
    """How the runs of a sweep share GPUs."""

    launcher: Launcher
    environment: dict[str, str] = attrs.field(factory=dict)
    """What tells each run its share; it is no part of what a run is, so that it has the same hash anywhere."""
    words: str = ""
    """A line for whoever runs the sweep; empty if no GPU is shared."""


def sharing(points: Sequence[Prepared], launcher: Launcher, per_gpu: PerGpu, gpu_gib: float | None) -> Sharing:
    """Return how the runs share the launcher's GPUs: ``per_gpu`` at a time on each, or as many as fit.

    Args:
        points: all points of the sweep.
        launcher: where they run; its own number of jobs per GPU counts if ``per_gpu`` is ``None``.
        per_gpu: runs at a time on each GPU; ``auto``: as many as fit and have a core each.
        gpu_gib: GiB of the smallest GPU that may be shared out; ``None``: what is free on those that are here.

    Raises:
        RequestError: the launcher shares no GPUs, there are none, their memory is not known, or the runs do not fit.
    """
    from ..training.memory.fitting import Request
    from ..training.memory.side_by_side import require_runs, share_of

    if per_gpu is None and launcher.per_gpu in (None, 1):
        if gpu_gib is not None:
            what = f"{CARD} is memory that {OPTION} shares out, and that is not given"
            raise RequestError(what, fix=f"give {OPTION}, too")
        return Sharing(launcher)
    gpus, memory = _gpus(launcher, gpu_gib)
    named = [(point.title, Request(point.experiment, launcher.gpus_per_job)) for point in points]
    wanted = per_gpu or launcher.per_gpu or 1
    runs, why = (wanted, "") if wanted != "auto" else _most([each for _, each in named], memory, gpus, launcher)
    require_runs(named, runs, memory, OPTION)
    share = share_of(memory, runs)
    words = f"{runs} run{'s' if runs > 1 else ''} at a time on each GPU{why}, {share / GIB:.1f} GiB for each"
    made: Any = launcher
    return Sharing(attrs.evolve(made, per_gpu=runs), variables(share), words)


def _gpus(launcher: Launcher, gpu_gib: float | None) -> tuple[int | None, int]:
    """Return the number of GPUs, if it is known, and the bytes of the smallest that may be shared out."""
    name = type(launcher).__name__.lower()
    if launcher.per_gpu is None:
        fix = "leave it out, or take the launcher local"
        raise RequestError(f"the launcher {name} gives every run GPUs of its own, which no other shares", OPTION, fix)
    ids = launcher.gpus_here()
    stated = None if gpu_gib is None else int(gpu_gib * GIB)
    if ids is None:
        if stated is None:
            what = "the memory of the cluster's GPUs is not known before runs are on them"
            raise RequestError(what, f"{OPTION}, launcher {name}", f"say how much the smallest has: {CARD}")
        return None, stated
    if not ids:
        fix = f"{in_python('--slots N', 'slots=N')} runs N at a time on the CPU"
        raise RequestError("there is no GPU that runs could share", OPTION, fix)
    free = min(card.free for card in cards.cards_by_id(ids))
    return len(ids), free if stated is None else min(stated, free)


def _most(requests: Sequence[Request], memory: int, gpus: int | None, launcher: Launcher) -> tuple[int, str]:
    """Return how many runs fit on each GPU, with the reason why there are not more."""
    from ..training.memory.side_by_side import most_runs

    most = [(max(1, most_runs(requests, memory)), "as many as fit")]
    if gpus is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        most.append((max(1, cores // gpus), "one for each core"))
        most.append((-(-len(requests) * launcher.gpus_per_job // gpus), "all at once"))
    runs, why = min(most, key=lambda each: each[0])
    return runs, f" ({why})"
