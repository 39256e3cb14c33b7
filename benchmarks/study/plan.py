"""The plan of the study: which runs it has, and in which order they are worth having.

The study is one sweep. Each of its cases is a remedy, on a task, with an algorithm; seeds are its axis. Remedies have
the settings of ``uncollapse sweep run interventions``. The baseline has PPO's symmetric clip, so that clip-higher is a
remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.compose.experiment import Experiment
from uncollapse.plugins.ragen.filter_levels import INFORMATION
from uncollapse.plugins.ragen.main_table import SOKOBAN
from uncollapse.plugins.ragen.reproduction import PAPERS_OWN, difference, gain
from uncollapse.plugins.report.claim import Claim
from uncollapse.plugins.sweeps.interventions import AXIS, Interventions
from uncollapse.plugins.sweeps.points import Point
from uncollapse.plugins.sweeps.sweep import Sweep
from uncollapse.plugins.sweeps.variation import Case

STEPS = 100
SEEDS = (0, 1, 2)
NONE, COLD = "none", "no warm start"
CONTROLS = (NONE, COLD)
SIDE_BY_SIDE = ("top_p(0.9)", "KL")
"""Remedies that the figure and the texts show beside the untreated runs."""
FORECAST, FORECASTED = "entropy_forecast", (*CONTROLS, *SIDE_BY_SIDE)
"""The detector that takes most of the memory, for a moment, and the settings that have it."""
FOLDS = 4
"""Folds of the forecast, for GPUs with more memory than the experiments ask for."""
SAVING = {"trainer.save_every": 20, "trainer.save_last": False}
"""When checkpoints are kept, for a second call on the same machine; they never leave it, and change no figure."""
ALGORITHMS: dict[str, dict[str, Any]] = {"grpo": {"advantage": "grpo"}, "ppo": {"advantage": "gae(gamma=1.0, lam=1.0)"}}
CLIP = "ppo(clip_low=0.2, clip_high=0.2)"
"""The loss of the baseline."""
LOSSES = "ppo(clip_low=0.2, clip_high=0.28),clip_cov,kl_cov,gspo,cispo"
REMEDIES: tuple[tuple[str, str], ...] = (
    ("rollout_filter", "top_p,quantile"),
    ("entropy_controller", "fixed,adaptive"),
    ("kl", "low_var_kl"),
    ("policy_loss", LOSSES),
    ("batch_sampler", "dynamic"),
    ("advantage", "dr_grpo,maxrl"),
)
"""Kinds and names of the remedies, in the order in which they run."""
NAMES = {
    "entropy_controller fixed": "entropy bonus",
    "entropy_controller adaptive": "adaptive entropy bonus",
    "kl low_var_kl": "KL",
    "policy_loss ppo(clip_low=0.2, clip_high=0.28)": "clip-higher",
}
"""Names of remedies that say more than their components; all others are called by the component."""


@attrs.frozen
class Size:
    """What is trained, and on what."""

    tasks: dict[str, str]
    """Name of each task, and its experiment; all other tasks are described by their differences from the first one."""
    remedies: tuple[tuple[str, str], ...] = REMEDIES
    seeds: tuple[int, ...] = SEEDS
    settings: dict[str, Any] = attrs.field(factory=dict)
    """Settings of all runs, laid over the experiment of a task."""
    algorithms: tuple[str, ...] = tuple(ALGORITHMS)


FULL = Size(
    {"arithmetic": "smol-arithmetic", "sokoban": "smol-sokoban", "countdown": "smol-countdown"},
    settings={
        "trainer.steps": STEPS,
        **SAVING,
        "rollout.engine": "vllm(kv_cache_gib=2.0, gpu_memory_utilization=0.1, sleep=false)",
        "trackers": ["jsonl"],
    },
)
QUICK = Size(
    {"arithmetic": "smol-arithmetic"},
    remedies=(("rollout_filter", "top_p"), ("kl", "low_var_kl")),
    seeds=(0, 1),
    algorithms=("grpo",),
    settings={
        "model.build": "tiny_qwen2(episodes=4)",
        "model.dtype": "float32",
        "model.warm_start": {"steps": 2, "batch": 2, "demonstrations": 4, "tested": 2},
        "rollout.engine": "hf",
        "rollout.groups": 2,
        "rollout.group_size": 2,
        "rollout.max_context": 1600,
        "rollout.max_tokens": 16,
        "trainer.mini_batch": 4,
        "trainer.micro_batch": 4,
        "trainer.zero_stage": 0,
        "trainer.steps": 3,
        "trainer.save_every": 1,
        "trainer.save_last": False,
        "validation.groups": 4,
        "validation.every": 1,
        "collapse": ["entropy_collapse(stop=false)", "format_collapse(stop=false, window=1)"],
        "trackers": ["jsonl"],
    },
)
"""A tiny model on a CPU, to try everything out: it measures nothing."""


def study(size: Size) -> Sweep:
    """Return the sweep. Raises RequestError if it cannot be composed."""
    first = next(iter(size.tasks.values()))
    base = compose(compose(first, size.settings), {"policy_loss": CLIP})
    cases = [
        case for task in size.tasks for algorithm in size.algorithms for case in _cases(size, base, task, algorithm)
    ]
    return Sweep(
        to_dict(base), cases=tuple(cases), axes={"seed": list(size.seeds)}, name="study", ranked=True,
        claims=tuple(_claims(size)),
    )  # fmt: skip


def _cases(size: Size, base: Experiment, task: str, algorithm: str) -> Iterator[Case]:
    """Yield the untreated run, the one without a warm start, and one for each remedy."""
    shared = {**changes(base, compose(size.tasks[task], size.settings)), **ALGORITHMS[algorithm]}
    untreated = compose(base, shared)

    def case(remedy: str, overrides: dict[str, Any]) -> Case:
        label = f"{task}-{algorithm}-{remedy.replace(' ', '_')}"
        detectors = _detectors(untreated, forecasts=remedy in FORECASTED)
        place = {AXIS: remedy, "task": task, "algorithm": algorithm}
        return Case(label, {**shared, **detectors, **overrides}, place)

    yield case(NONE, {})
    yield case(COLD, {"model.warm_start": None})
    for kind, names in size.remedies:
        if kind == "advantage" and algorithm != "grpo":  # it would not be that algorithm any more
            continue
        record = Interventions(experiment=untreated, kind=kind, only=names).record()
        for each in record["cases"][1:]:
            word = each["values"][AXIS]
            yield case(NAMES.get(word, word.partition(" ")[2]), each["overrides"])


def _detectors(experiment: Experiment, forecasts: bool) -> dict[str, Any]:
    """Return the detectors of an experiment, with the forecast in :data:`FOLDS` folds or without it."""
    kept = [detector for detector in experiment.collapse if forecasts or detector.name != FORECAST]
    folds = {"folds": FOLDS}
    settings = [to_dict(detector) | folds if detector.name == FORECAST else str(detector) for detector in kept]
    return {"collapse": settings} if settings != list(map(str, experiment.collapse)) else {}


def changes(base: Experiment, other: Experiment) -> dict[str, Any]:
    """Return the settings that make the other experiment of the base, but for algorithm and loss."""
    found: dict[str, Any] = {}
    ours, theirs = to_dict(base), to_dict(other)
    for section, value in theirs.items():
        if section in ("advantage", "policy_loss", "seed") or value == ours[section]:
            continue
        if isinstance(value, dict) and "name" not in value:
            found |= {f"{section}.{key}": each for key, each in value.items() if each != ours[section][key]}
        else:
            found[section] = value
    return found


def in_order(points: Sequence[Point], size: Size) -> list[Point]:
    """Return the points so that any beginning of them is of use: controls of GRPO first, then seed by seed."""
    tasks, algorithms = list(size.tasks), list(size.algorithms)
    place = {point.label: at for at, point in enumerate(points)}

    def key(point: Point) -> tuple[int, ...]:
        task, algorithm = tasks.index(point.values["task"]), algorithms.index(point.values["algorithm"])
        seed = size.seeds.index(int(point.values["seed"]))
        if point.values[AXIS] in CONTROLS and algorithm == 0 and task < 2:
            # tasks in turns, as slots are on two GPUs: each gets half of those with a forecast, which take more memory
            return (0, seed, CONTROLS.index(point.values[AXIS]), task)
        # every remedy has a seed on the first two tasks before the next seed; what is left of tasks comes last
        return (1 if task < 2 else 2, seed, algorithm, task, place[point.label])

    return sorted(points, key=key)


def _claims(size: Size) -> Iterator[Claim]:
    """Yield the claims of RAGEN-2 that the study can test: of its tables 4 and 7, on Sokoban."""
    if "sokoban" not in size.tasks:
        return
    filtered, untreated = ({"task": "sokoban", AXIS: remedy} for remedy in ("top_p(0.9)", NONE))
    for algorithm in ("ppo", "grpo"):
        where, figures = {"algorithm": algorithm}, gain(*SOKOBAN[algorithm, PAPERS_OWN])
        text = f"top-p filtering raises peak success ({algorithm.upper()})"
        yield difference(text, "table 4: Sokoban, 3B", filtered | where, untreated | where, figures)
    yield difference(
        "filtering groups keeps mutual information (PPO)",
        "table 7: Sokoban, PPO, 3B",
        filtered | {"algorithm": "ppo"},
        untreated | {"algorithm": "ppo"},
        (INFORMATION["groups"], INFORMATION["none"]),
        measure="information",
    )
