"""The rollout engine ``vllm`` beside a 3B policy: start, weight sync, sleep, wake and close; memory that is given back.

    python benchmarks/gpu/sync.py [--modes full,adapter,merged] [--quick]

``full`` sends the whole policy, ``adapter`` the LoRA adapter alone, ``merged`` a LoRA policy merged on the way. Times
are medians of ``--repeats``, in milliseconds: ``sync`` into an engine that is awake (weights and clearing the prefix
cache), ``sleep``, ``wake`` (both stages) and ``wake+sync``, which is what the training loop does before a rollout. The
first sync, which compares checksums, stands apart. ``freed`` is what the GPU had more of after falling asleep.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch

COLUMNS = {
    "mode": "mode", "start_s": "start s", "first_sync_ms": "first sync", "sync_ms": "sync", "sleep_ms": "sleep",
    "wake_ms": "wake", "wake_sync_ms": "wake+sync", "gib_sent": "GiB sent", "gib_per_s": "GiB/s",
    "freed_gib": "freed GiB", "asleep_gib": "GPU asleep", "awake_gib": "GPU awake", "close_s": "close s",
}  # fmt: skip


def measure(mode: str, options: argparse.Namespace) -> dict[str, Any]:
    """One engine from start to end."""
    import uncollapse
    from uncollapse.core.components import Sampling
    from uncollapse.plugins.training.assemble import Untrained
    from uncollapse.plugins.training.networks.models import load_policy, load_tokenizer
    from uncollapse.plugins.training.weights.engine_weights import EngineWeights

    gpu = torch.cuda.is_available()
    engine = {"name": "vllm", "gpu_memory_utilization": options.utilization, "enforce_eager": options.eager}
    engine |= {"lora": mode} if mode != "full" else {}
    engine |= {} if gpu else {"kv_cache_gib": 0.25}
    experiment = uncollapse.compose({
        "environment": {"name": "sokoban"},
        "model": {
            "path": str(options.model), "dtype": common.dtype(),
            "lora": None if mode == "full" else {"rank": options.rank},
        },
        "rollout": {"engine": engine, "max_tokens": 16, "max_context": 1024},
        "validation": {"every": 0},
    })  # fmt: skip
    device = torch.device("cuda" if gpu else "cpu")
    tokenizer = load_tokenizer(options.model)
    policy = load_policy(experiment.model, options.model, 1.0).to(device)

    clock = common.Clock()
    with clock.time("start"):
        session = experiment.rollout.engine.component.start(policy.model, tokenizer, max_context=1024)
    weights = EngineWeights(session, Untrained(policy), own=True)
    inner = session._call

    def call(method: str, *arguments: Any) -> Any:
        with clock.time(method):
            return inner(method, *arguments)

    session._call = call

    def timed(work: Callable[[], Any]) -> tuple[float, dict[str, float]]:
        """Milliseconds in all, and of each call of the engine's process."""
        clock.take()
        common.synchronize()
        started = time.perf_counter()
        work()
        common.synchronize()
        whole = time.perf_counter() - started
        return 1e3 * whole, {name: 1e3 * seconds for name, seconds in clock.take().items()}

    def sample() -> None:
        found = session.generate([tokenizer.encode("You play Sokoban")] * 8, Sampling(max_tokens=16), seed=0)
        if any(len(completion.tokens) != 16 for completion in found):
            raise SystemExit("the engine did not sample")

    start_s = clock.take()["start"]
    first_sync_ms, _ = timed(weights.fresh)
    sample()
    awake, awake_gib = [], 0.0
    for _ in range(options.repeats):
        weights.outdated()
        awake.append(timed(weights.fresh)[0])
    sleeps, wakes, wake_syncs, freed, asleep_gib = [], [], [], [], 0.0
    for _ in range(options.repeats if session.place.sleeps else 0):
        sample()
        awake_gib = common.used_gib()
        sleeps.append(timed(weights.sleep)[0])
        asleep_gib = common.used_gib()
        freed.append(awake_gib - asleep_gib)
        whole, calls = timed(weights.fresh)
        wake_syncs.append(whole)
        wakes.append(calls["wake_up"])
    sample()
    started = time.perf_counter()
    session.close()
    close_s = time.perf_counter() - started
    sent = sum(tensor.numel() * tensor.element_size() for _, tensor in weights._weights()) / 2**30
    return {
        "benchmark": "sync", "mode": mode, "shape": options.shape, "parameters": sum(common.parameters(options.shape)),
        "rank": None if mode == "full" else options.rank, "utilization": options.utilization, "eager": options.eager,
        "start_s": start_s, "first_sync_ms": first_sync_ms, "sync_ms": median(awake), "gib_sent": sent,
        "gib_per_s": 1e3 * sent / median(awake),
        **({
            "sleep_ms": median(sleeps), "wake_ms": median(wakes), "wake_sync_ms": median(wake_syncs),
            "freed_gib": median(freed), "asleep_gib": asleep_gib, "awake_gib": awake_gib,
        } if sleeps else {}),
        "close_s": close_s, "each_sync_ms": awake, "each_wake_sync_ms": wake_syncs, **common.setting(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", default="full,adapter,merged")
    parser.add_argument("--shape", choices=common.SHAPES, default="3b")
    parser.add_argument("--rank", type=int, default=16, help="of the adapter")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--utilization", type=float, default=0.25, help="the engine's share of the GPU's memory")
    parser.add_argument("--eager", action="store_true", help="vLLM without CUDA graphs: starts faster")
    parser.add_argument("--model", type=Path, help="where the random model is, or is to be written")
    parser.add_argument("--keep", action="store_true", help="keep the model")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to try the script out")
    options = parser.parse_args()
    if options.quick:
        options.shape, options.repeats, options.eager = "tiny", 2, True
    options.model = options.model or common.scratch() / options.shape
    options.model.mkdir(parents=True, exist_ok=True)
    common.write_model(options.model, options.shape)
    rows = []
    for mode in options.modes.split(","):
        rows.append(measure(mode, options))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if not options.keep:
        shutil.rmtree(options.model, ignore_errors=True)
    print(f"\n{rows[0]['parameters']:,} parameters; {rows[0]['gpu']}, {rows[0]['date']}; milliseconds unless it says s")
    common.table(rows, COLUMNS)
    common.publish(rows, options.out)


if __name__ == "__main__":
    main()
