"""``uncollapse doctor -e EXPERIMENT``: what it will hold on each GPU, and whether that fits."""

from __future__ import annotations

import click

from ..core.console.options import print_columns


def print_plan(source: str, overrides: tuple[str, ...], ranks: int, gpu_memory: float | None) -> None:
    """The plan as a table, and a verdict where the memory of the GPU is known.

    Raises:
        RequestError: it cannot fit; the message names settings that would.
    """
    from ..core.compose.combinations import check_ranks
    from ..core.compose.config import compose
    from ..plugins.training.memory.fitting import GIB, USABLE, Request, require

    experiment = compose(source, overrides)
    check_ranks(experiment, ranks)
    memory = _gpu_memory() if gpu_memory is None else max(1, int(gpu_memory * GIB))  # bytes
    request = Request(experiment, ranks)
    plan, policy = request.plan(memory), request.shapes[0]
    trainer, rollout = experiment.trainer, experiment.rollout
    trained = "" if policy.trained == policy.parameters else f", {policy.trained:.3g} of them train"
    click.echo(
        f"{policy.parameters:.3g} parameters{trained}, {experiment.model.dtype}, ZeRO {trainer.zero_stage} on {ranks} "
        f"GPU{'s' if ranks > 1 else ''}, rows of {rollout.max_context} tokens\n\nGiB per GPU"
    )
    names = list(dict.fromkeys(name for phase in plan.phases for name in phase.items))
    rows = [("", *(phase.name for phase in plan.phases))]
    rows += [(name, *(_gib(phase.items.get(name, 0)) for phase in plan.phases)) for name in names]
    rows += [("total", *(_gib(phase.total) for phase in plan.phases))]
    rows += [("at least, with short rows", *(_gib(phase.least) for phase in plan.phases))]
    print_columns(rows)
    if plan.unclear:
        click.echo(f"\nactivations and KV cache are not counted, the totals are lower bounds: {plan.unclear}")
    if plan.host:
        click.echo(f"\nin the machine's memory, for each GPU: {_gib(plan.host)} GiB")
    if not memory:
        click.echo("\nno GPU here: --gpu-memory GIB says whether it fits one")
        return
    require(request, memory)
    fullest = plan.fullest
    verdict = "fits at least without what is not counted" if plan.unclear else "fits"
    click.echo(
        f"\n{verdict}: {_gib(fullest.total)} GiB ({fullest.name}) of {_gib(int(USABLE * memory))} GiB, "
        f"{USABLE:.0%} of the GPU's {_gib(memory)} GiB"
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}" if size else "–"


def _gpu_memory() -> int:
    """The memory of this machine's smallest GPU; 0 if there is none."""
    import torch

    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count())]
    return min(sizes, default=0)
