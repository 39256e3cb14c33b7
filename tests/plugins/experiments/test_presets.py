"""The built-in experiments run for two steps on a CPU, with a model that is built on the spot or one of any family."""

import json
import sys
from pathlib import Path

import pytest
import uncollapse
from uncollapse.plugins.experiments.qwen2 import random_qwen2

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))

from tool_templates import TOOLED

SHORT = {
    "rollout.groups": 2,
    "rollout.group_size": 2,
    "rollout.max_tokens": 8,
    "rollout.max_turns": 2,
    "validation.groups": 2,
    "trainer.steps": 2,
    "trainer.mini_batch": 4,
    "trainer.micro_batch": 2,
    "trainer.score_batch": 4,
    "trainer.zero_stage": 0,
    "model.dtype": "float32",
    "trackers": "jsonl",
}
TINY = {"model.path": None, "model.build": "tiny_qwen2(episodes=4)"}


def trained(experiment, settings, directory):
    """Train in ``directory``, and return the outcome and the episodes of the first step."""
    outcome = uncollapse.train(uncollapse.compose(experiment, {**SHORT, **settings}), directory)
    lines = (directory / "rollouts" / "step_1.jsonl").read_text("utf-8").splitlines()
    return outcome, [json.loads(line) for line in lines]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "settings", "package", "says"),
    [
        ("tiny-tools", {"model.build.steps": 2, "model.build.batch": 2}, None, "What is ("),
        ("tool-calculator", TINY, None, "What is ("),
        ("countdown-chat", TINY, None, "Target: "),
        ("countdown-chat", {**TINY, "dialogue": "plain"}, None, "Target: "),
        (
            "countdown-chat",
            {**TINY, "model.build": "cloned_qwen2(tokenizer=pieces, steps=2, batch=2)"},
            None,
            "Target: ",
        ),
        ("gym-frozenlake", TINY, "gymnasium", "hole"),
        ("reasoning-gym", TINY, "reasoning_gym", ""),
    ],
)
def test_two_steps_run_on_a_cpu(tmp_path, experiment, settings, package, says):
    if package:
        pytest.importorskip(package)
    outcome, episodes = trained(experiment, settings, tmp_path / "run")
    assert outcome.status == "success"
    assert len(episodes) == 4
    assert says in json.dumps(episodes[0])


@pytest.mark.slow
@pytest.mark.parametrize(("family", "marks"), [("smollm2", "<tool_call>{"), ("llama3.1", ""), ("mistral-v0.3", "")])
def test_a_model_of_any_family_is_given_the_tool(tmp_path, family, marks):
    """Where the chat template describes no tools, the system message does."""
    tokenizer = TOOLED[family].family.tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    random_qwen2(tokenizer, 16, 1, 0.02, seed=0).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = {"model.path": str(tmp_path / "model"), "rollout.max_context": 4000}
    outcome, episodes = trained("tool-calculator", settings, tmp_path / "run")
    assert outcome.status == "success"
    system = episodes[0]["system"]
    assert ("Tools, as JSON schemas:" in system) == (not TOOLED[family].described)
    assert marks in system


def test_every_preset_composes_and_the_large_ones_name_a_model():
    for name in ("tool-calculator", "countdown-chat"):
        experiment = uncollapse.compose(name)
        assert experiment.model.path.startswith("Qwen/Qwen2.5")
        assert experiment.advantage.name == "grpo"
        assert (experiment.environment.component.split, experiment.validation.environment) == (
            "train",
            {"split": "validation"},
        )
    assert uncollapse.compose("tiny-tools").model.path is None
