"""``uncollapse doctor -e EXPERIMENT``: what it will hold on each GPU, and whether that fits."""

from __future__ import annotations

import click

from ..core.console.options import print_columns


def print_plan(
    source: str, overrides: tuple[str, ...], ranks: int, gpu_memory: float | None, per_gpu: int | str | None
) -> None:
    """The plan as a table, and a verdict where the memory of the GPU is known.

    Args:
        source: the experiment.
        overrides: changes of it.
        ranks: the number of GPUs that it trains on.
        gpu_memory: GiB of each GPU; ``None``: of those that are here.
        per_gpu: runs side by side on each GPU, each in an equal share; ``auto`` for as many as fit.

    Raises:
        RequestError: it cannot fit, or not so often; the message names settings with which it would.
    """
    from ..core.compose.combinations import check_ranks
    from ..core.compose.config import compose
    from ..plugins.training.memory.fitting import GIB, USABLE, Request, require
    from ..plugins.training.memory.side_by_side import most_runs, require_runs, share_of

    experiment = compose(source, overrides)
    check_ranks(experiment, ranks)
    gpu = _gpu_memory() if gpu_memory is None else max(1, int(gpu_memory * GIB))  # bytes
    request = Request(experiment, ranks)
    most = most_runs([request], gpu) if gpu else 0
    runs = max(1, most) if per_gpu == "auto" else int(per_gpu or 1)
    memory = share_of(gpu, runs)
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
    if runs == 1:
        require(request, memory)
    require_runs([("", request)], runs, gpu)
    fullest = plan.fullest
    verdict = "fits at least without what is not counted" if plan.unclear else "fits"
    of = "the GPU's" if runs == 1 else f"each of {runs} shares of {_gib(gpu)} GiB:"
    click.echo(
        f"\n{verdict}: {_gib(fullest.total)} GiB ({fullest.name}) of {_gib(int(USABLE * memory))} GiB, "
        f"{USABLE:.0%} of {of} {_gib(memory)} GiB"
    )
    click.echo(f"side by side: {most} such runs fit a GPU of {_gib(gpu)} GiB{_how(most)}")


def _how(most: int) -> str:
    return f" (uncollapse sweep run ... --per-gpu {most})" if most > 1 else ""


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}" if size else "–"


def _gpu_memory() -> int:
    """The memory of this machine's smallest GPU; 0 if there is none."""
    from ..plugins.training.memory import cards

    return min((card.total for card in cards.visible_cards()), default=0)
