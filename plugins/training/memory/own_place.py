"""A run is checked against the memory that it may take of its GPUs, before it loads anything, and is kept to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import torch

from ....core.compose.blame import blaming
from ....core.errors import RequestError
from ....core.gpu_share import ALL, VARIABLE, gpu_share, overfills
from . import cards
from .beside import sampling_load
from .fitting import GIB, Request, require
from .model_shape import read_shapes

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment
    from ....core.compose.named import Named
    from ..processes.ranks import Ranks

OTHERS = "end what else runs on the GPU (nvidia-smi lists it)"
SHORTER = f"rows that stay shorter than rollout.max_context need less: {VARIABLE}={ALL} trains all the same"


def require_memory(experiment: Experiment, ranks: Ranks) -> None:
    """Check that the run fits what it may take of each GPU, its share or all that is free, and keep torch within that.

    Every rank calls it. Where a share is given, the trainer's allocator is held to what the engine and its process
    leave of it, so that no run takes memory that another one on the same GPU was promised.

    Raises:
        RequestError: it does not fit; the message names settings that would.
    """
    card, share = cards.card_of(ranks.device), gpu_share()
    if overfills():
        require(Request(experiment, ranks.size), card.total, certain=True)
        return
    memory = min(share or card.total, card.total)
    request = Request(experiment, ranks.size, min(ranks.gather(card.free)))
    try:
        plan = require(request, memory)
    except RequestError as error:
        of = f"its share of {memory / GIB:.1f} GiB" if share else f"a GPU of {card.total / GIB:.1f} GiB"
        ways = [OTHERS] if error.what.endswith("free") else []
        raise RequestError(
            error.what, f"{error.where}, in {of}", "\n         ".join([*ways, error.fix, SHORTER])
        ) from error
    if share:
        torch.cuda.set_per_process_memory_fraction((memory - plan.beside) / card.total, ranks.device)


def engine_within(experiment: Experiment, ranks: Ranks) -> tuple[Named, list[str]]:
    """Return the engine that keeps to what the run may take of its GPUs, and a note where it is another one.

    It is not recorded: where a run trains does not change which run it is.
    """
    named = experiment.rollout.engine
    if ranks.device.type != "cuda":
        return named, []
    card, share = cards.card_of(ranks.device), gpu_share()
    memory = min(share or card.total, card.total)
    load = sampling_load(experiment, read_shapes(experiment)[0], ranks.size, memory)
    with blaming(named, "within"):
        component = named.component.within(load, card.total)
        fields = [] if component == named.component else [field.name for field in attrs.fields(type(component))]
        changed = [name for name in fields if getattr(component, name) != getattr(named.component, name)]
    if not changed:
        return named, []
    new = {name: getattr(component, name) for name in changed}
    values = ", ".join(f"{name} {f'{value:.3g}' if isinstance(value, float) else value}" for name, value in new.items())
    return attrs.evolve(named, component=component), [f"engine in {memory / GIB:.1f} GiB: {values}"]
