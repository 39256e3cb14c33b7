"""An experiment is checked against the memory of a GPU; where it does not fit, settings that do are named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import attrs

from ....core.compose.blame import blaming
from ....core.compose.combinations import check_ranks
from ....core.compose.config import compose
from ....core.compose.spec import format_value
from ....core.errors import RequestError
from .model_shape import Shape, read_shapes
from .planner import Phase, Plan, plan

if TYPE_CHECKING:
    from ....core.compose.experiment import Experiment

GIB = 2**30
USABLE = 0.95
"""The share of a GPU, or of a run's own part of one, that a plan may fill. The rest is for fragmentation and the
libraries' workspaces."""
MORE_RANKS = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that are suggested."""


@attrs.frozen
class Change:
    """A change of an experiment's settings, or of the number of GPUs."""

    overrides: tuple[str, ...] = ()
    """``KEY=VALUE`` pairs, as ``--set`` takes them."""
    ranks: int | None = None
    """The number of GPUs, if that changes."""

    def __str__(self) -> str:
        ranks = [f"--ranks {self.ranks}"] if self.ranks else []
        return " ".join([*(f"--set {_quoted(text)}" for text in self.overrides), *ranks])


@attrs.frozen
class Request:
    """An experiment, and the number of GPUs that it is to run on."""

    experiment: Experiment
    ranks: int = 1
    free: int | None = None
    """Bytes of each GPU that no other process holds; ``None`` if that is not known."""

    @property
    def shapes(self) -> tuple[Shape, Shape | None]:
        """The shapes of the policy, and of the critic if it is a model of its own."""
        return read_shapes(self.experiment)

    def plan(self, memory: int) -> Plan:
        """Return the memory plan on GPUs of ``memory`` bytes (0: unknown).

        Raises:
            RequestError: the engine cannot be spread over the GPUs as it is asked to.
        """
        shapes = self.shapes
        self.experiment.rollout.engine.component.check_spread(shapes[0].heads, self.ranks)
        return plan(*shapes, self.experiment, self.ranks, memory)

    def usable(self, memory: int) -> int:
        """Return the bytes that a plan may fill where the run may take ``memory`` bytes of each GPU."""
        usable = int(USABLE * memory)
        return usable if self.free is None else min(usable, self.free)

    def holds(self, memory: int) -> bool:
        """Return whether ``memory`` bytes of each GPU are enough, with rows as long as they may become."""
        memory_plan = self.plan(memory)
        return memory_plan.shortage is None and memory_plan.fullest.total <= self.usable(memory)

    def fits(self, memory: int, *changes: Change) -> bool:
        """Return whether the experiment fits after ``changes``, with rows as long as they may become.

        It does not fit if the changes cannot be made.
        """
        ranks = next((change.ranks for change in changes if change.ranks), self.ranks)
        try:
            experiment = compose(self.experiment, [text for change in changes for text in change.overrides])
            check_ranks(experiment, ranks)
            return Request(experiment, ranks, self.free).holds(memory)
        except RequestError:
            return False


Step = Callable[[Request], Iterator[Change]]


def require(request: Request, memory: int, certain: bool = False) -> Plan:
    """Return the plan on GPUs of which the run may take ``memory`` bytes, if it fits.

    Args:
        request: the experiment and its number of GPUs.
        memory: the bytes of one GPU that the run may take.
        certain: whether to refuse only what cannot fit even with the shortest rows.

    Raises:
        RequestError: it does not fit; the message names settings that would.
    """
    memory_plan = request.plan(memory)
    if short := memory_plan.shortage:
        what = f"the engine's share of the GPU does not hold its weights and one row: {short.need / GIB:.1f} GiB"
        raise RequestError(what, f"rollout.engine.{short.key}", short.fix)
    if certain:
        phase = memory_plan.fullest_at_least
        need, available = phase.least, memory
    else:
        phase = memory_plan.fullest
        need, available = phase.total, request.usable(memory)
    if need <= available:
        return memory_plan
    raise RequestError(
        f"the experiment needs {'at least ' if certain else ''}{need / GIB:.1f} GiB per GPU and "
        f"{available / GIB:.1f} GiB are {'there' if available != request.free else 'free'}",
        f"{phase.name} on {request.ranks} GPU{'s' if request.ranks > 1 else ''}: {describe(phase)}",
        fixes(suggestions(request, memory)),
    )


def fixes(settings: Sequence[str], *others: str) -> str:
    """Return the fix of an error: settings with which an experiment fits, one a line, and other ways."""
    python = "(each KEY=VALUE is an override of compose() in Python)"
    none = ["a GPU with more memory, or a smaller model: no setting suffices"]
    return "\n         ".join([*others, *([*settings, python] if settings else none)])


def describe(phase: Phase) -> str:
    """Say what the phase holds, in GiB, largest first."""
    ordered = sorted(phase.items.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in ordered if size >= 0.05 * GIB)


def suggestions(request: Request, memory: int) -> list[str]:
    """Return settings with which the experiment fits, the cheapest first. Each was planned again with them.

    Where no single change is enough, combinations are tried: first of changes that leave the GPUs and the trained
    parameters as they are, then with an adapter, then with more GPUs.
    """
    single_changes = [_mildest(request, (), list(step(request)), memory) for step in LADDER]
    if enough := [str(change) for change in single_changes if change is not None]:
        return enough
    same_gpus = tuple(step for step in LADDER if step is not more_ranks)
    same_model = tuple(step for step in same_gpus if step is not adapter)
    combinations = [_combination(request, ladder, memory) for ladder in (same_model, same_gpus, LADDER)]
    return list(dict.fromkeys(str(change) for change in combinations if change is not None))


def _mildest(request: Request, others: Sequence[Change], options: Sequence[Change], memory: int) -> Change | None:
    """Return the first of ``options`` that is enough together with ``others``."""
    return next((change for change in options if request.fits(memory, *others, change)), None)


def _combination(request: Request, ladder: Sequence[Step], memory: int) -> Change | None:
    """Return the changes of the shortest start of the ladder that is enough, each then made as small as it can be."""
    for count in range(2, len(ladder) + 1):
        options = {step: list(step(request)) for step in ladder[:count]}
        options = {step: changes for step, changes in options.items() if changes}
        chosen = {step: changes[-1] for step, changes in options.items() if step is not more_ranks}
        # more GPUs cost most, and not every number of them divides the batches
        ranks = [Change(), *options.get(more_ranks, ())]
        enough = _mildest(request, tuple(chosen.values()), ranks, memory)
        if enough is None:
            continue
        for step in reversed(list(chosen)):
            others = [enough, *(change for other, change in chosen.items() if other is not step)]
            chosen[step] = _mildest(request, others, [Change(), *options[step]], memory) or chosen[step]
        overrides = tuple(text for change in chosen.values() for text in change.overrides)
        return Change((*enough.overrides, *overrides), enough.ranks)
    return None


def _quoted(text: str) -> str:
    key, _, value = text.partition("=")
    return f"{key}='{value}'" if set(value) & set(" (){}") else text


# --- the ladder: what may be changed, the cheapest first; each step goes from the mildest change to the strongest ----


def checkpointing(request: Request) -> Iterator[Change]:
    if not request.experiment.model.gradient_checkpointing:
        yield Change(("model.gradient_checkpointing=true",))


def smaller_micro_batches(request: Request) -> Iterator[Change]:
    trainer, width = request.experiment.trainer, request.experiment.rollout.max_context
    if budget := trainer.token_budget:
        while budget > width:
            budget = max(width, budget // 2)
            yield Change((f"trainer.token_budget={budget}",))
        return
    micro, score = trainer.micro_batch, trainer.score_batch
    while micro > 1 or score > 1:
        micro, score = max(1, micro // 2), max(1, score // 2)
        yield Change((f"trainer.micro_batch={micro}", f"trainer.score_batch={score}"))


def offload(request: Request) -> Iterator[Change]:
    trainer = request.experiment.trainer
    if trainer.offload == "none":
        yield Change(("trainer.offload=optimizer",))
    if trainer.offload != "all" and trainer.zero_stage == 3:
        yield Change(("trainer.offload=all",))


def more_ranks(request: Request) -> Iterator[Change]:
    stage = request.experiment.trainer.zero_stage
    for ranks in MORE_RANKS:
        for zero in range(max(stage, 2), 4):
            if ranks > request.ranks or (zero > stage and ranks == request.ranks):
                yield Change(() if zero == stage else (f"trainer.zero_stage={zero}",), ranks)


def adapter(request: Request) -> Iterator[Change]:
    if request.experiment.model.lora is None:
        yield Change(("model.lora={rank: 16}",))


def smaller_engine(request: Request) -> Iterator[Change]:
    engine = request.experiment.rollout.engine
    with blaming(engine, "smaller"):
        for parameters in engine.component.smaller():
            yield Change(tuple(f"rollout.engine.{key}={format_value(value)}" for key, value in parameters.items()))


def smaller_detectors(request: Request) -> Iterator[Change]:
    """Yield fewer rows at once in passes that are not packed, then less of one detector, of two, and so on."""
    taken: dict[str, str] = {}
    experiment = request.experiment
    # with a budget and checkpointing, the trainer packs its passes and the detectors do not
    counted = experiment.trainer.token_budget and experiment.model.gradient_checkpointing
    micro = experiment.trainer.micro_batch if counted else 1
    while micro > 1:
        micro //= 2
        taken["trainer.micro_batch"] = str(micro)
        yield Change(tuple(f"{key}={value}" for key, value in taken.items()))
    for detector in experiment.collapse:
        with blaming(detector, "smaller"):
            for parameters in detector.component.smaller():
                for key, value in parameters.items():
                    taken[f"collapse.{detector.name}.{key}"] = format_value(value)
                yield Change(tuple(f"{key}={value}" for key, value in taken.items()))


LADDER: tuple[Step, ...] = (
    checkpointing,
    smaller_micro_batches,
    smaller_detectors,
    offload,
    more_ranks,
    adapter,
    smaller_engine,
)
