"""One batch on one GPU and on several, with ZeRO-2 and ZeRO-3: the same losses up to rounding, and how much faster.

    python benchmarks/gpu/ranks.py [--worlds 1,2] [--stages 2,3] [--dtypes bfloat16,float32] [--quick]

A random model with the shape of Qwen2.5-0.5B takes optimizer steps on one fixed batch: 64 rows of 256 to 1,024 random
tokens, of which the last half trains, with random advantages around 1 and the log-probs of the start as the old ones.
Every case is a set of processes that this script starts, one a GPU (on a CPU: gloo). ``difference`` is the largest
relative difference from the first case of the same type, over all steps, of the loss, the entropy and the gradient's
norm. Seconds are the median over the steps after the first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch

COLUMNS = {
    "dtype": "type", "world": "GPUs", "stage": "ZeRO", "difference": "difference", "loss": "last loss",
    "step_s": "step s", "speed_up": "speed-up", "tokens_per_s": "tok/s", "peak_share": "peak a GPU", "gib": "GiB a GPU",
}  # fmt: skip
COMPARED = ("pg_loss", "entropy", "grad_norm")


def worker(options: argparse.Namespace) -> None:
    """One rank of one case; the first writes what came out."""
    import attrs
    import uncollapse
    from uncollapse.plugins.training import stages
    from uncollapse.plugins.training.batch import Batch
    from uncollapse.plugins.training.losses import PolicyObjective
    from uncollapse.plugins.training.models import load_policy
    from uncollapse.plugins.training.ranks import start_ranks

    ranks = start_ranks()
    experiment = uncollapse.compose({
        "environment": {"name": "sokoban"},
        "model": {"path": str(options.model), "dtype": options.dtypes},
        "advantage": "grpo",
        "critic": None,
        "validation": {"every": 0},
        "trainer": {
            "mini_batch": options.rows, "micro_batch": options.micro_batch, "score_batch": options.micro_batch,
            "zero_stage": int(options.stages), "lr": 1e-5,
        },
    })  # fmt: skip
    trainer = experiment.trainer
    policy = load_policy(experiment.model, options.model, 1.0).to(ranks.device)
    engine = trainer.backend.component.start(
        policy, trainer, zero_stage=trainer.zero_stage, dtype=options.dtypes, ranks=ranks
    )
    random = torch.Generator().manual_seed(0)
    shape = options.rows, options.tokens
    lengths = torch.randint(options.tokens // 4, options.tokens + 1, (options.rows,), generator=random)
    place = torch.arange(options.tokens)[None]
    mask = (place >= lengths[:, None] // 2) & (place < lengths[:, None])
    tokens = torch.randint(common.SHAPES[options.shape][-1], shape, generator=random)
    batch = Batch(tokens=tokens, mask=mask, lengths=lengths)
    batch = attrs.evolve(
        batch,
        advantages=torch.where(mask, 1 + torch.randn(shape, generator=random), 0.0),
        old_logprobs=stages.score(engine, batch, trainer.score_batch, ranks).logprobs,
    )
    objective = PolicyObjective(experiment.policy_loss.component)
    found: list[dict[str, float]] = []
    with common.Peak() as peak:
        for _ in range(1 + options.steps):
            ranks.barrier()
            common.synchronize()
            started = time.perf_counter()
            metrics = stages.update(engine, batch, [list(range(options.rows))], objective, experiment, ranks, 1.0)
            common.synchronize()
            seconds = time.perf_counter() - started
            found.append({name: metrics[name] for name in COMPARED} | {"seconds": seconds})
    if ranks.first:
        counts = {"tokens": int(lengths.sum()), "sampled": int(mask.sum())}
        result = {"steps": found, "gib": peak.own_gib, **counts, **common.setting()}
        Path(options.result).write_text(json.dumps(result))


def launch(dtype: str, world: int, stage: int, options: argparse.Namespace) -> dict[str, Any]:
    """The processes of one case. Raises SystemExit if one of them fails."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        result = Path(directory) / "result.json"
        own = ["--worlds", str(world), "--stages", str(stage), "--dtypes", dtype, "--result", str(result)]
        processes = []
        for rank in range(world):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            processes.append(subprocess.Popen([sys.executable, *sys.argv, *own], env={**os.environ, **place}))
        while None in (codes := [process.poll() for process in processes]):
            if any(codes):  # the others would wait for the one that failed
                for process in processes:
                    process.kill()
            time.sleep(0.1)
        if any(codes):
            raise SystemExit(f"{dtype}, {world} GPUs, ZeRO-{stage}: exit codes {codes}")
        return json.loads(result.read_text())


def difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in COMPARED]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs)


def main() -> None:
    options = arguments()
    if options.result:
        worker(options)
        return
    options.model.mkdir(parents=True, exist_ok=True)
    common.write_model(options.model, options.shape)
    rows = []
    for dtype in options.dtypes.split(","):
        first: dict[str, Any] = {}
        for world in map(int, options.worlds.split(",")):
            for stage in map(int, options.stages.split(",")):
                found = launch(dtype, world, stage, options)
                first = first or found
                seconds = median(step["seconds"] for step in found["steps"][1:])
                reference = median(step["seconds"] for step in first["steps"][1:])
                flops = common.update_flops(options.shape, found["tokens"], found["sampled"], False)
                on_bf16 = dtype == "bfloat16" and found["gpus"] > 0
                rows.append({
                    "benchmark": "ranks", "shape": options.shape, "dtype": dtype, "world": world, "stage": stage,
                    "difference": difference(first["steps"], found["steps"]), "loss": found["steps"][-1]["pg_loss"],
                    "step_s": seconds, "speed_up": reference / seconds, "tokens_per_s": found["tokens"] / seconds,
                    "peak_share": flops / seconds / common.PEAK / world if on_bf16 else None,
                    **{key: value for key, value in found.items() if key != "steps"},
                    "micro_batch": options.micro_batch, "rows": options.rows,
                    **{f"each_{name}": [step[name] for step in found["steps"]] for name in (*COMPARED, "seconds")},
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)  # a command that is cut off has said what it knows
    if not options.keep:
        shutil.rmtree(options.model, ignore_errors=True)
    print(
        f"\n{sum(common.parameters(options.shape)):,} parameters, {options.rows} rows, {rows[0]['tokens']:,} tokens "
        f"({rows[0]['sampled']:,} train), {1 + options.steps} optimizer steps; {rows[0]['gpu']}, {rows[0]['date']}"
    )
    common.table(rows, COLUMNS)
    common.publish(rows, options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default="1,2", help="numbers of GPUs")
    parser.add_argument("--stages", default="2,3", help="of ZeRO")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--shape", choices=common.SHAPES, default="0.5b")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=1024, help="of the longest row")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="counted steps")
    parser.add_argument("--model", type=Path, help="where the random model is, or is to be written")
    parser.add_argument("--keep", action="store_true", help="keep the model")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    parser.add_argument("--result", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.shape, options.rows, options.tokens, options.micro_batch, options.steps = "tiny", 8, 32, 2, 2
        options.dtypes = options.dtypes if options.result else "float32"
    options.model = options.model or common.scratch() / options.shape
    return options


if __name__ == "__main__":
    main()
