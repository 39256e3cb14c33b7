"""What the detectors cost beside a training step: ``entropy_forecast``, and a mutual-information measurement.

    python benchmarks/gpu/detectors.py [--experiment smol-arithmetic] [--set KEY=VALUE] [--profile] [--quick]

``--steps`` steps of 16 x 16 episodes are trained. The forecast looks at every ``--every``-th step and the measurement
of 64 samples at every ``--mi-every``-th, so that some steps have neither: the median of those is the step that both are
held against. The first step, and the first look of each detector, warm kernels up and are told apart from the others.
Seconds of a phase include all work of the device that it has begun. A phase within another one counts in both.

The limits are a forecast in at most the time of one step, and a measurement in at most 0.2 of it. ``passes`` counts the
calls of the policy in each, ``tokens`` what they read, padding included. The warm start is short and not tested here;
``--set model.warm_start=null`` leaves it out, and then there may be few thoughts to measure. ``--profile`` adds a step
with both detectors under torch's profiler, and prints what launches, copies and waits they make.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import common
import torch

LIMITS = {"forecast": 1.0, "mi": 0.2}
"""Largest cost in steps."""
QUICK = {
    "model.build": "tiny_qwen2(episodes=4)", "model.warm_start": None, "rollout.groups": 4, "rollout.group_size": 2,
    "rollout.max_context": 1600, "trainer.mini_batch": 4, "trainer.micro_batch": 2, "trainer.token_budget": 4096,
    "entropy_coeff": 0.01,
}  # fmt: skip
COLUMNS = {
    "experiment": "experiment", "episodes": "episodes", "step_s": "step s", "forecast_s": "forecast s",
    "forecast_ratio": "ratio", "forecast_first_s": "first", "mi_s": "MI s", "mi_ratio": "ratio", "mi_first_s": "first",
    "samples": "samples", "start_s": "start s", "trainer_gib": "GiB",
}  # fmt: skip


def experiment(options: argparse.Namespace) -> Any:
    """The experiment with both detectors, everything else as it is."""
    import uncollapse

    gpu = torch.cuda.is_available()
    engine = {"name": "vllm", "sleep": False, "kv_cache_gib": 2.0, "gpu_memory_utilization": 0.1} if gpu else "hf"
    warm = {"steps": 30, "demonstrations": 480, "tested": 0, "min_valid": 0.0}
    layers = {
        "model.dtype": common.dtype(), "trainer.zero_stage": 2 if gpu else 0, "rollout.engine": engine,
        "rollout.groups": options.groups, "rollout.group_size": options.group_size, "validation.every": 0,
        "trainer.save_last": False, "trackers": ["jsonl"],
        "collapse": [
            {"name": "entropy_forecast", "every": options.every},
            {"name": "mutual_information", "multi_turn": False, "num_samples": 64, "compute_freq": options.mi_every},
        ],
        **{f"model.warm_start.{key}": value for key, value in warm.items()},
    }  # fmt: skip
    if options.groups * options.group_size < 256:  # four optimizer steps, as with all rows
        layers["trainer.mini_batch"] = max(1, options.groups * options.group_size // 4)
    if options.quick:
        layers = {name: value for name, value in layers.items() if not name.startswith("model.warm_start")} | QUICK
    return uncollapse.compose(uncollapse.compose(options.experiment, layers), options.set)


class Watch:
    """Seconds, passes and tokens of each phase of the detectors, in the step that runs."""

    def __init__(self, loop: Any) -> None:
        self.clock = common.Clock()
        self._read: list[Any] = []
        self._profiler: Any = None
        self.counts: dict[str, tuple[int, int]] = {}
        sessions = loop.parts.detectors.sessions
        forecast, information = sessions["entropy_forecast"], sessions["mutual_information"]
        for owner, method, name in phases(loop):
            self.clock.watch(owner, method, name)
        for owner, method, name in (
            (forecast, "before_update", "forecast"), (forecast, "after_update", "forecast"),
            (information, "measure", "mi"),
        ):  # fmt: skip
            self._watch_passes(owner, method, name)
            self.clock.watch(owner, method, name)
        loop.parts.policy.module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, options: dict[str, Any]) -> None:
        tokens = args[0].lengths.sum() if options.get("packed") else args[0].tokens.numel()
        self._read.append(tokens)  # a tensor waits for the device only when it is looked at

    def _watch_passes(self, owner: Any, method: str, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any) -> Any:
            self._read = []
            with self._profiled():
                result = original(*args)
            passes, tokens = self.counts.get(name, (0, 0))
            self.counts[name] = passes + len(self._read), tokens + sum(map(int, self._read))
            return result

        setattr(owner, method, counted)

    @contextmanager
    def _profiled(self) -> Iterator[None]:
        if self._profiler is not None:
            self._profiler.start()
        yield
        if self._profiler is not None:
            self._profiler.stop()
            print(self._profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=30), flush=True)

    @contextmanager
    def profiling(self) -> Iterator[None]:
        """Look at what the detectors do in this block with torch's profiler, one table a call."""
        from torch.profiler import ProfilerActivity, profile

        devices = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profiler = profile(activities=devices)
        yield
        self._profiler = None

    def take(self) -> dict[str, Any]:
        """What was seen since the last time."""
        counts, self.counts = self.counts, {}
        seconds = self.clock.take()
        for name, (passes, tokens) in counts.items():
            seconds[f"{name}_passes"], seconds[f"{name}_tokens"] = passes, tokens
        return seconds


def phases(loop: Any) -> list[tuple[Any, str, str]]:
    """What is timed within the detectors: owner, method, name of the phase."""
    from uncollapse.plugins.collapse import mutual_information
    from uncollapse.plugins.probe.estimation.passes import Passes
    from uncollapse.plugins.probe.forecast import forecast
    from uncollapse.plugins.probe.forecast.folds import Folds, Walk
    from uncollapse.plugins.probe.forecast.response import Before

    return [
        (loop.parts.policy, "live_optimizer_state", "forecast_state"), (Folds, "displacements", "forecast_planned"),
        (Passes, "loss_gradient", "forecast_gradients"), (Walk, "step", "forecast_walks"),
        (Before, "response", "forecast_response"), (Passes, "forward_mode", "forecast_forward_mode"),
        (Passes, "forward", "forecast_forward"), (forecast, "predicted_change", "forecast_change"),
        (mutual_information, "turns_of", "mi_thoughts"), (loop.scorer, "pairwise", "mi_scored"),
        (mutual_information, "_metrics", "mi_estimates"),
    ]  # fmt: skip


def main() -> None:
    options = arguments()
    from uncollapse.plugins.training.assemble import assemble
    from uncollapse.plugins.training.networks.prepare import prepare_model
    from uncollapse.plugins.training.processes.ranks import start_ranks
    from uncollapse.plugins.training.step.loop import Loop

    started = time.perf_counter()
    composed, ranks = experiment(options), start_ranks()
    prepare_model(composed)
    warm_s = time.perf_counter() - started
    loop = Loop(composed, assemble(composed, ranks), ranks)
    start_s = time.perf_counter() - started
    watch = Watch(loop)
    with common.Peak() as peak:
        steps = [step(loop, watch) for _ in range(options.steps)]
        if options.profile:
            while True:
                with watch.profiling():
                    if "forecast_planned" in step(loop, watch):
                        break
    loop.parts.close()
    row = {
        "benchmark": "detectors", "experiment": options.experiment, "set": options.set,
        "episodes": options.groups * options.group_size, "steps": options.steps, "start_s": start_s, "warm_s": warm_s,
        "trainer_gib": peak.own_gib or None, "gpu_gib": peak.gib or None, **told(steps), **common.setting(),
    }  # fmt: skip
    report(row)
    common.publish([row], options.out)


def step(loop: Any, watch: Watch) -> dict[str, Any]:
    """One training step, and what it took."""
    watch.take()
    common.synchronize()
    started = time.perf_counter()
    metrics = loop.train_step()
    common.synchronize()
    seconds = time.perf_counter() - started
    found = watch.take()
    stages = {f"step_{name.removeprefix('timing_s/')}": value for name, value in loop.timings().items()}
    known = {name: metrics[name] for name in ("forecast/predicted", "forecast/predicted_se") if name in metrics}
    known["samples"] = min(64, metrics.get("collapse/first_turn_num_valid", 0))
    known["tokens"] = sum(len(turn.prompt) + len(turn.tokens) for one in loop.episodes for turn in one.turns[-1:])
    known["sampled"] = sum(len(turn.tokens) for one in loop.episodes for turn in one.turns)
    found = {"step": loop.step, "seconds": seconds, **known, **stages, **found}
    print({name: round(value, 4) for name, value in found.items()}, flush=True)
    return found


def told(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the looks after the first; the step's over those without a look at anything."""
    planned = [one for one in steps if "forecast_planned" in one]
    measured = [one for one in steps if "mi_scored" in one]
    plain = [one for one in steps[1:] if one not in planned and one not in measured]
    row: dict[str, Any] = {"step_s": median(one["seconds"] for one in plain), "plain_steps": len(plain)}
    row |= {name: median(one[name] for one in plain) for name in plain[0] if name.startswith("step_")}
    row |= {name: median(one[name] for one in plain) for name in ("tokens", "sampled")}
    for kind, looks in (("forecast", planned), ("mi", measured)):
        counted = looks[1:] or looks
        for name in sorted({name for one in counted for name in one if name.startswith(f"{kind}_")}):
            value = median(one.get(name, 0) for one in counted)
            row[name if name.endswith(("_passes", "_tokens")) else f"{name}_s"] = value
        if looks:
            row |= {
                f"{kind}_s": median(one[kind] for one in counted), f"{kind}_first_s": looks[0][kind],
                f"{kind}_looks": len(counted),
            }  # fmt: skip
            row[f"{kind}_ratio"] = row[f"{kind}_s"] / row["step_s"]
    return row | {"samples": median(one["samples"] for one in measured) if measured else 0}


def report(row: dict[str, Any]) -> None:
    print()
    common.table([row], COLUMNS)
    for kind, limit in LIMITS.items():
        if f"{kind}_ratio" not in row:
            print(f"{kind}: nothing was measured")
            continue
        split = ", ".join(
            f"{name.removeprefix(f'{kind}_')} {value:.3g}"
            for name, value in row.items()
            if name.startswith(f"{kind}_") and name not in {f"{kind}_s", f"{kind}_ratio", f"{kind}_looks"}
        )
        verdict = "holds" if row[f"{kind}_ratio"] <= limit else "does NOT hold"
        print(f"{kind}: {row[f'{kind}_ratio']:.2f} of a step, the limit {limit:g} {verdict} ({split})")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="smol-arithmetic")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the experiment")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--group-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--every", type=int, default=3, help="steps between forecasts")
    parser.add_argument("--mi-every", type=int, default=4, help="steps between measurements of mutual information")
    parser.add_argument("--profile", action="store_true", help="one look of each under torch's profiler, not timed")
    parser.add_argument("--out", type=Path, help="append the JSON line to this file")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script out")
    options = parser.parse_args()
    if options.quick:
        options.groups, options.group_size, options.steps = 4, 2, min(options.steps, 8)
    return options


if __name__ == "__main__":
    main()
