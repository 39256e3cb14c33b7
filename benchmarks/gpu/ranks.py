"""One batch trains on one GPU and on several, with ZeRO-2 and ZeRO-3: same losses up to rounding, and the speed-up.

    python benchmarks/gpu/ranks.py [--worlds 1,2] [--stages 2,3] [--dtypes bfloat16,float32] [--packing 0,16384]
                                   [--offload none,optimizer,all] [--shape 3b --gradient-checkpointing] [--quick]

A random model with the shape of Qwen2.5-0.5B takes optimizer steps on one fixed batch: 64 rows of 256 to 1,024 random
tokens, of which the last half trains, with random advantages around 1 and the log-probs of the start as the old ones.
One set of processes for each number of GPUs (one a GPU; on a CPU: gloo) goes through all cases, one after the other.
``optimizer`` is DeepSpeed's ``step`` within an optimizer step: norms, AdamW, and what ranks exchange once (ZeRO-2 and 3
reduce gradients in the backward passes before it, ZeRO-1 in it). ``difference`` is the largest relative difference from
the first case of the same type, over all steps, of the loss, the entropy and the gradient's norm. Seconds are the
median over the steps after the first. ``left GiB`` is what torch still held when a case began. One rank has nothing to
partition: there ZeRO-2 is run as ZeRO-1.

Combinations that an experiment may not have (offloaded weights without ZeRO-3) are named and left out. A case that
fails, or takes longer than ``--limit``, is named too, and the others go on in new processes; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import common
import launch
import torch

COLUMNS = {
    "dtype": "type", "world": "GPUs", "stage": "ZeRO", "packing": "packing", "offload": "offload", "head": "head",
    "difference": "difference", "loss": "last loss", "step_s": "step s", "optimizer_s": "optimizer",
    "speed_up": "speed-up",
    "tokens_per_s": "tok/s", "peak_share": "peak a GPU", "gib": "GiB a GPU", "left_gib": "left GiB",
    "start_s": "start s",
}  # fmt: skip
COMPARED = ("pg_loss", "entropy", "grad_norm")
CASE = ("dtype", "stage", "packing", "offload")
"""What a case is made of, beside the number of GPUs."""


# --- a rank -----------------------------------------------------------------------------------------------------------


def worker(options: argparse.Namespace) -> None:
    """One rank; the first reports each case."""
    from uncollapse.plugins.training.processes.ranks import start_ranks

    ranks = start_ranks()
    torch.set_float32_matmul_precision("highest")
    for case in json.loads(options.cases):
        ranks.barrier()
        found = measure(case, options, ranks)
        if ranks.first:
            launch.report(options.results, found)


def measure(case: dict[str, Any], options: argparse.Namespace, ranks: Any) -> dict[str, Any]:
    """One case, of which nothing is left afterwards."""
    import attrs
    from uncollapse.plugins.training.networks.models import load_policy
    from uncollapse.plugins.training.networks.packing import enable_packing
    from uncollapse.plugins.training.step import stages
    from uncollapse.plugins.training.step.batch import Batch
    from uncollapse.plugins.training.step.budget import SCORE_FACTOR
    from uncollapse.plugins.training.step.losses import PolicyObjective

    left_gib, started = held_gib(), time.perf_counter()
    experiment = compose(case, options)
    trainer, settings = experiment.trainer, experiment.model
    head = settings.head.component.on(ranks.device)
    policy = load_policy(settings, options.model, 1.0, head=head).to(ranks.device)
    if trainer.token_budget:
        enable_packing(policy.language_model)
    engine = trainer.backend.component.start(
        policy,
        trainer,
        zero_stage=trainer.zero_stage,
        dtype=settings.dtype,
        ranks=ranks,
        offload=trainer.offload,
    )
    start_s = time.perf_counter() - started
    random = torch.Generator().manual_seed(0)
    shape = options.rows, options.tokens
    lengths = torch.randint(options.tokens // 4, options.tokens + 1, (options.rows,), generator=random)
    place = torch.arange(options.tokens)[None]
    mask = (place >= lengths[:, None] // 2) & (place < lengths[:, None])
    tokens = torch.randint(common.SHAPES[options.shape][-1], shape, generator=random)
    batch = Batch(tokens=tokens, mask=mask, lengths=lengths)
    budget = SCORE_FACTOR * trainer.token_budget
    batch = attrs.evolve(
        batch,
        advantages=torch.where(mask, 1 + torch.randn(shape, generator=random), 0.0),
        old_logprobs=stages.score(engine, batch, trainer.score_batch, ranks, budget=budget).logprobs,
    )
    objective = PolicyObjective(experiment.policy_loss.component)
    steps: list[dict[str, float]] = []
    clock = common.Clock()
    clock.watch(engine.engine, "step", "optimizer")
    with common.Peak() as peak:
        for _ in range(1 + options.steps):
            ranks.barrier()
            common.synchronize()
            started = time.perf_counter()
            metrics = stages.update(engine, batch, [list(range(options.rows))], objective, experiment, ranks, 1.0)
            common.synchronize()
            seconds = time.perf_counter() - started
            steps.append({name: metrics[name] for name in COMPARED} | {"seconds": seconds, **clock.take()})
    engine.close()
    del policy, engine
    return {
        "steps": steps, "start_s": start_s, "left_gib": left_gib, "gib": peak.own_gib,
        "head": type(head).__name__.lower(), "tf32": uses_tf32(ranks.device),
        "tokens": int(lengths.sum()), "sampled": int(mask.sum()), **common.setting(),
    }  # fmt: skip


def held_gib() -> float:
    """GiB that torch holds on this GPU after giving back all that nobody needs."""
    gc.collect()
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated() / 2**30


def uses_tf32(device: torch.device) -> bool:
    """Whether products of fp32 matrices are rounded like TF32 (10 bits: relative errors of 1e-4 rather than 1e-7).

    Measured, as environment variables of several libraries can overrule what torch says.
    """
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    single = matrix.float().to(device)
    exact = single.double() @ single.double()
    return bool((single @ single - exact).norm() / exact.norm() > 1e-5)


def compose(case: dict[str, Any], options: argparse.Namespace) -> Any:
    """Raises RequestError if there can be no such experiment."""
    import uncollapse

    return uncollapse.compose({
        "environment": {"name": "sokoban"},
        "model": {
            "path": str(options.model), "dtype": case["dtype"],
            "gradient_checkpointing": options.gradient_checkpointing,
        },
        "rollout": {"max_tokens": options.tokens // 2, "max_context": options.tokens},
        "advantage": "grpo",
        "critic": None,
        "validation": {"every": 0},
        "trainer": {
            "mini_batch": options.rows, "micro_batch": options.micro_batch, "score_batch": options.micro_batch,
            "token_budget": case["packing"], "zero_stage": case["stage"], "offload": case["offload"], "lr": 1e-5,
        },
    })  # fmt: skip


# --- all cases --------------------------------------------------------------------------------------------------------


def measured(world: int, cases: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What came out of each case, in order; ``error`` of one that failed, after which new processes take the rest."""
    while cases:
        own = ["--cases", json.dumps(cases)]
        try:
            for found in launch.reports([*sys.argv, *own], world, options.limit):
                cases = cases[1:]
                yield found
        except launch.ProcessError as error:
            cases = cases[1:]
            yield {"error": str(error)}


def main() -> None:
    options = arguments()
    if options.results:
        worker(options)
        return
    options.model.mkdir(parents=True, exist_ok=True)
    common.write_model(options.model, options.shape)
    began = time.perf_counter()
    every = [dict(zip(CASE, values, strict=True)) for values in product(*(getattr(options, name) for name in CASE))]
    reasons = [refused(case, options) for case in every]
    possible = [case for case, reason in zip(every, reasons, strict=True) if not reason]
    rows: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for case, reason in zip(every, reasons, strict=True):
        if reason:
            bad.append({"benchmark": "ranks", **case, "skipped": reason})
            print(json.dumps(bad[-1]), flush=True)
    first: dict[str, dict[str, Any]] = {}
    for world in options.world:
        if torch.cuda.is_available() and torch.cuda.device_count() < world:
            bad.append({"benchmark": "ranks", "world": world, "skipped": f"there are {torch.cuda.device_count()} GPUs"})
            print(json.dumps(bad[-1]), flush=True)
            continue
        for case, found in zip(possible, measured(world, possible, options), strict=True):
            own = {"benchmark": "ranks", "shape": options.shape, "world": world, **case}
            if "error" in found:
                bad.append({**own, **found})
                print(json.dumps(bad[-1]), flush=True)
                continue
            rows.append({**own, **row(world, case, found, first.setdefault(case["dtype"], found), options)})
            print(json.dumps(rows[-1]), flush=True)  # a command that is cut off has said what it knows
    if not options.keep:
        shutil.rmtree(options.model, ignore_errors=True)
    if rows:
        summary(rows, options)
    for each in bad:
        what = ", ".join(f"{key} {value}" for key, value in each.items() if key in ("world", *CASE))
        print(f"{'skipped' if 'skipped' in each else 'FAILED'}: {what}: {each.get('skipped') or each['error']}")
    print(f"{time.perf_counter() - began:.0f} s in all")
    common.publish([*rows, *bad], options.out)
    if not rows or any("error" in each for each in bad):
        raise SystemExit(1)


def refused(case: dict[str, Any], options: argparse.Namespace) -> str:
    """Why there can be no such experiment; nothing where there can."""
    from uncollapse.core.errors import RequestError

    try:
        compose(case, options)
    except RequestError as error:
        return " ".join(str(error).split())
    return ""


def row(
    world: int, case: dict[str, Any], found: dict[str, Any], first: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """A case beside the first one of its type."""
    seconds, reference = (median(step["seconds"] for step in each["steps"][1:]) for each in (found, first))
    flops = common.update_flops(options.shape, found["tokens"], found["sampled"], options.gradient_checkpointing)
    on_bf16 = case["dtype"] == "bfloat16" and found["gpus"] > 0
    return {
        "difference": difference(first["steps"], found["steps"]), "loss": found["steps"][-1]["pg_loss"],
        "step_s": seconds, "optimizer_s": median(step["optimizer"] for step in found["steps"][1:]),
        "speed_up": reference / seconds, "tokens_per_s": found["tokens"] / seconds,
        "peak_share": flops / seconds / common.PEAK / world if on_bf16 else None,
        **{key: value for key, value in found.items() if key != "steps"},
        "micro_batch": options.micro_batch, "rows": options.rows,
        "gradient_checkpointing": options.gradient_checkpointing,
        **{f"each_{name}": [step[name] for step in found["steps"]] for name in (*COMPARED, "seconds")},
    }  # fmt: skip


def summary(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    one = rows[0]
    print(
        f"\n{sum(common.parameters(options.shape)):,} parameters, {options.rows} rows, {one['tokens']:,} tokens "
        f"({one['sampled']:,} train), {1 + options.steps} optimizer steps; {one['gpu']}, {one['date']}"
    )
    common.table(rows, COLUMNS)
    for dtype in options.dtype:
        if own := [each for each in rows if each["dtype"] == dtype]:
            worst = max(each["difference"] for each in own)
            tf32 = ", products in TF32" if dtype == "float32" and any(each["tf32"] for each in own) else ""
            print(f"{dtype}: no more than {worst:.2g} from the first of its {len(own)} cases{tf32}")


def difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in COMPARED]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs)


# --- the command ------------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    def several(kind: type) -> Any:
        return lambda text: [kind(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", dest="world", type=several(int), default=[1, 2], help="numbers of GPUs")
    parser.add_argument("--stages", dest="stage", type=several(int), default=[2, 3], help="of ZeRO")
    parser.add_argument("--dtypes", dest="dtype", type=several(str), help="bfloat16,float32")
    parser.add_argument("--packing", type=several(int), default=[0], help="token budgets of packed rows; 0 pads rows")
    parser.add_argument("--offload", type=several(str), default=["none"], help="none,optimizer,all")
    parser.add_argument("--shape", choices=common.SHAPES, default="0.5b")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024, help="of the longest row")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--limit", type=float, default=180, help="seconds for a case, the start of processes included")
    parser.add_argument("--model", type=Path, help="where the random model is, or is to be written")
    parser.add_argument("--keep", action="store_true", help="keep the model")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--cases", help=argparse.SUPPRESS)
    parser.add_argument("--results", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.shape, options.rows, options.tokens, options.micro_batch, options.steps = "tiny", 8, 32, 2, 2
    options.dtype = options.dtype or (["float32"] if options.quick else ["bfloat16", "float32"])
    options.model = options.model or common.scratch() / options.shape
    return options


if __name__ == "__main__":
    main()
