"""The forecasts of entropy_forecast are held against what each update does to the entropy, step by step.

``run`` trains tiny-sokoban with PPO (8 groups of 16 episodes) and GRPO (32 groups of 4) under
``entropy_forecast(every=1)``. Between updates each policy plays ``--episodes`` fresh episodes, every one of a task of
its own, with the same tasks and random numbers for all policies; they train nothing. The realised change of an update
is the entropy per token of those after it less that of those before it, with a standard error over tasks. Each forecast
becomes a line of ``<root>/<kind>_<seed>.jsonl`` as soon as it is known; runs go on in processes of their own.

``analyse`` reads these lines and says what the forecasts are worth: z = (predicted - realised) over the root of both
squared errors, correlation, and root mean square errors against those of saying that nothing changes, and of saying the
mean of the earlier realised changes of the run, which a training run does not know. Every +- is one standard error;
those of correlations, errors and skill are bootstrapped over runs. Skill is 1 less the ratio of mean squared errors,
after the noise of the realised change is taken out of both.

Run: python benchmarks/forecast.py run [--seeds 0,1,2] [--steps 26] [--episodes 512] [--processes 2] [--root DIR]
     python benchmarks/forecast.py analyse [--root DIR]
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from uncollapse.core.compose.config import compose
from uncollapse.plugins.probe.estimation.passes import Passes
from uncollapse.plugins.probe.estimation.sequences import entropy_terms
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.networks.prepare import prepare_model
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.step.stages import to_batch, to_rollouts

KINDS = {
    "ppo": {},
    "grpo": {"advantage": "grpo", "rollout.groups": 32, "rollout.group_size": 4},
}
FRESH = 5_000_000
"""First task of the fresh episodes: far from those that train."""
STATUS = ("told from none", "wide", "few groups")
RESAMPLES = 2000


# --- runs -------------------------------------------------------------------------------------------------------------


def experiment(kind: str, seed: int, steps: int) -> Any:
    settings = {
        **KINDS[kind],
        "seed": seed,
        "rollout.seed": 10_000 + 100_000 * seed,
        "trainer.steps": steps,
        "validation.every": 0,
        "collapse": ["entropy_forecast(every=1)"],
    }
    return compose("tiny-sokoban", [f"{name}={json.dumps(value)}" for name, value in settings.items()])


class Fresh:
    """The entropy of the policy as it is, on the same tasks and with the same random numbers at every call."""

    def __init__(self, loop: Loop, episodes: int) -> None:
        self._loop, self._episodes = loop, episodes

    def __call__(self) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
        """[E] sums of entropies and numbers of tokens of the episodes, and their tasks."""
        loop, own = self._loop, self._loop.experiment
        sampler = loop.parts.sampler
        tasks = range(FRESH, FRESH + self._episodes)
        episodes = collect(
            own.environment.component, own.rollout, sampler.engine, sampler.template, seeds=tasks, group_size=1, seed=1
        )
        rollouts = to_rollouts(episodes, own)
        outputs = Passes(loop.parts.policy.module, to_batch(rollouts), 32, loop.ranks).forward()
        terms = entropy_terms(outputs, rollouts)
        return terms["H"], terms["T"], [(episode.system, episode.turns[0].user) for episode in episodes]


def train(kind: str, seed: int, steps: int, episodes: int, path: Path) -> str:
    """One run; its last update has no next rollouts, so it makes one step more than it has lines."""
    torch.set_num_threads(1)
    ranks = start_ranks()
    own = experiment(kind, seed, steps + 1)
    loop = Loop(own, assemble(own, ranks), ranks)
    fresh = Fresh(loop, episodes)
    before, line = fresh(), {}
    with path.open("w") as out:
        for step in range(1, steps + 2):
            started = time.perf_counter()
            metrics = loop.train_step()
            seconds = time.perf_counter() - started
            said = {name.removeprefix("forecast/"): x for name, x in metrics.items() if name.startswith("forecast/")}
            if line and said.get("for_step") == line["step"]:
                own_words = {name: said.get(name) for name in ("realised", "realised_se", "z")}
                out.write(json.dumps(line | {"own": own_words}) + "\n")
                out.flush()
            if step > steps:
                break
            after = fresh()
            line = {
                "kind": kind,
                "seed": seed,
                "step": step,
                **{name: said.get(name) for name in ("predicted", "predicted_se", "status", "degrees_of_freedom")},
                **realised(before, after),
                "groups": own.rollout.groups,
                "groups_without_spread": metrics["rollout/filter_zero_count"],
                "success": metrics["train/success"],
                "seconds": seconds,
                "seconds_forecast": sum(x for name, x in metrics.items() if name.startswith("timing_s/forecast_")),
            }
            before = after
    loop.parts.close()
    return path.name


def realised(before: Any, after: Any) -> dict[str, float]:
    """The change of the entropy per token, with its error over tasks: rooms that look alike are one."""
    (h_0, influence_0), (h_1, influence_1) = (per_token(H, T) for H, T, _ in (before, after))
    numbers = {task: index for index, task in enumerate(dict.fromkeys(before[2]))}
    index = torch.tensor([numbers[task] for task in before[2]])
    clusters = torch.zeros(len(numbers), dtype=torch.float64).index_add(0, index, influence_1 - influence_0)
    count = len(clusters)
    error = math.sqrt(count / (count - 1) * float(clusters.square().sum()))
    return {"realised": h_1 - h_0, "realised_se": error, "entropy": h_0, "tasks": count}


def per_token(H: Tensor, T: Tensor) -> tuple[float, Tensor]:
    h = float(H.sum() / T.sum())
    return h, (H - h * T) / T.sum()


def run(options: argparse.Namespace) -> None:
    options.root.mkdir(parents=True, exist_ok=True)
    prepare_model(experiment("ppo", 0, 1))  # once, before many want it
    jobs = [(kind, int(seed)) for seed in options.seeds.split(",") for kind in options.kinds.split(",")]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = [
            pool.submit(train, kind, seed, options.steps, options.episodes, options.root / f"{kind}_{seed}.jsonl")
            for kind, seed in jobs
        ]
        for future in waiting:
            print(f"{future.result()} is done", flush=True)


# --- analysis ---------------------------------------------------------------------------------------------------------


def read(root: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for path in sorted(root.glob("*.jsonl")) for line in path.read_text().splitlines()]
    earlier: dict[tuple[str, int], list[float]] = {}
    for line in lines:
        past = earlier.setdefault((line["kind"], line["seed"]), [])
        line["mean_of_earlier"] = sum(past) / len(past) if past else 0.0
        past.append(line["realised"])
    return [line for line in lines if line["predicted"] is not None and line["predicted_se"] is not None]


def column(lines: list[dict[str, Any]], name: str) -> Tensor:
    return torch.tensor([line[name] for line in lines], dtype=torch.float64)


def z_of(lines: list[dict[str, Any]]) -> Tensor:
    errors = (column(lines, "predicted_se").square() + column(lines, "realised_se").square()).sqrt()
    return (column(lines, "predicted") - column(lines, "realised")) / errors


def rmse(lines: list[dict[str, Any]], name: str | None) -> float:
    said = column(lines, name) if name else torch.zeros(len(lines), dtype=torch.float64)
    return float((said - column(lines, "realised")).square().mean().sqrt())


def skill(lines: list[dict[str, Any]], peer: str | None) -> float:
    """1 less the ratio of mean squared errors to that of the peer, without the noise of what was realised.

    The noise of the last realised change enters the mean of earlier ones and its own next one; that is small and left.
    """
    noise = float(column(lines, "realised_se").square().mean())
    return 1 - (rmse(lines, "predicted") ** 2 - noise) / (rmse(lines, peer) ** 2 - noise)


def correlation(lines: list[dict[str, Any]]) -> float:
    return float(torch.corrcoef(torch.stack([column(lines, "predicted"), column(lines, "realised")]))[0, 1])


def with_error(function: Any, lines: list[dict[str, Any]]) -> tuple[float, float]:
    """A number and its standard error over whole runs drawn with replacement."""
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for line in lines:
        runs.setdefault((line["kind"], line["seed"]), []).append(line)
    parts = list(runs.values())
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(parts), (len(parts),), generator=generator).tolist()
        found.append(function([line for index in drawn for line in parts[index]]))
    return function(lines), float(torch.tensor(found, dtype=torch.float64).std())


def report(name: str, lines: list[dict[str, Any]]) -> None:
    z, runs = z_of(lines), len({(line["kind"], line["seed"]) for line in lines})
    print(f"\n{name}: {len(lines)} forecasts of {runs} runs")
    if len(lines) < 3 or runs < 2:
        print("too few to say more")
        return
    for what, values in (("z, fresh sample", z), ("z, next rollouts", own_z(lines))):
        mean, mean_error = float(values.mean()), float(values.std()) / len(values) ** 0.5
        (sd, sd_error) = float(values.std()), float(values.std()) / (2 * (len(values) - 1)) ** 0.5
        print(f"  {what:<34} mean {mean:+.2f} +- {mean_error:.2f}, sd {sd:.2f} +- {sd_error:.2f}")
    for what, column_name, error_name in (
        ("sum of predicted", "predicted", "predicted_se"),
        ("sum of realised", "realised", "realised_se"),
    ):
        total, error = float(column(lines, column_name).sum()), float(column(lines, error_name).square().sum().sqrt())
        print(f"  {what:<34} {total:+.3f} +- {error:.3f}")
    value, error = with_error(correlation, lines)
    print(f"  {'correlation with realised':<34} {value:+.2f} +- {error:.2f}")
    for what, peer in (("forecast", "predicted"), ("no change", None), ("mean of earlier changes", "mean_of_earlier")):
        value, error = with_error(lambda chosen, p=peer: rmse(chosen, p), lines)
        print(f"  {'RMSE of ' + what:<34} {value:.5f} +- {error:.5f}")
    noise = float(column(lines, "realised_se").square().mean().sqrt())
    print(f"  {'of which noise of the realised':<34} {noise:.5f}")
    for what, peer in (("no change", None), ("mean of earlier changes", "mean_of_earlier")):
        value, error = with_error(lambda chosen, p=peer: skill(chosen, p), lines)
        verdict = "better" if value > 2 * error else "worse" if value < -2 * error else "not told apart"
        print(f"  {'skill over ' + what:<34} {value:+.2f} +- {error:.2f}: {verdict}")


def own_z(lines: list[dict[str, Any]]) -> Tensor:
    """The detector's own, against the next rollouts of the training."""
    return torch.tensor([line["own"]["z"] for line in lines if line["own"]["z"] is not None], dtype=torch.float64)


def analyse(options: argparse.Namespace) -> None:
    lines = read(options.root)
    print(f"{date.today()}; {len(lines)} forecasts, {lines[0]['tasks']} fresh tasks for each policy")
    report("all", lines)
    for kind in KINDS:
        own = [line for line in lines if line["kind"] == kind]
        if own:
            report(kind, own)
            seconds, forecast = (float(column(own, name).median()) for name in ("seconds", "seconds_forecast"))
            print(f"  median step {seconds:.2f} s, of which the forecast {forecast:.2f} s: {forecast / seconds:.0%}")
    for number, word in enumerate(STATUS):
        own = [line for line in lines if line["status"] == number]
        if own:
            report(f"status {number}, {word}", own)
    z = z_of(lines)
    calibrated = abs(float(z.mean())) <= 0.2 and 0.85 <= float(z.std()) <= 1.15
    print(f"\nz within mean 0 +- 0.2 and sd 0.85 to 1.15: {'yes' if calibrated else 'NO'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    running = parts.add_parser("run")
    running.add_argument("--kinds", default="ppo,grpo")
    running.add_argument("--seeds", default="0,1,2")
    running.add_argument("--steps", type=int, default=26)
    running.add_argument("--episodes", type=int, default=512)
    running.add_argument("--processes", type=int, default=2)
    running.set_defaults(act=run)
    analysing = parts.add_parser("analyse")
    analysing.set_defaults(act=analyse)
    for part in (running, analysing):
        part.add_argument("--root", type=Path, default=Path("runs/forecast"))
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
