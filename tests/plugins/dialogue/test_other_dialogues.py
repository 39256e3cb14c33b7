"""The guide's dialogue is spoken by whatever plays, imitates, measures or evaluates episodes of an experiment."""

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import attrs
import pytest
import uncollapse
from uncollapse.core.components import Answer
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RequestError
from uncollapse.core.plugins import discover
from uncollapse.core.registry import Registry
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.sokoban import Sokoban
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout.demonstrations import demonstrations, everything_said
from uncollapse.plugins.rollout.dialogue import setting_of
from uncollapse.plugins.rollout.template import Template
from uncollapse.testing import check

GUIDE = Path(__file__).parents[3] / "docs" / "rollouts.md"
WORLD, ROLLOUT = Sokoban(size=5, view="words"), Rollout(max_tokens=24)
THEIRS = re.compile(r"helpful|Turn \d|State|Reward|Actions left|Invalid answer|think|answer|\|\|")
"""Words of ``think_answer``."""


@pytest.fixture
def file(tmp_path):
    codes = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    (code,) = (text for text in codes if "class " in text)
    path = tmp_path / "orders.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture
def orders(file):
    registry = Registry(discover())
    registry.load_file(file)
    return registry.create("dialogue", "orders")


def test_the_guides_dialogue_keeps_the_laws(orders):
    assert check("dialogue", orders) == []


def test_a_demonstrator_speaks_the_dialogue_and_is_read_as_it_meant(orders):
    tokenizer = build_tokenizer(everything_said(WORLD, ROLLOUT, orders, seed=0, episodes=20), orders.tags)
    assert not any(THEIRS.search(text) for text in everything_said(WORLD, ROLLOUT, orders, seed=0, episodes=20))
    template = Template(tokenizer, orders)
    for episode in islice(demonstrations(WORLD, ROLLOUT, template, seed=0, noise=0.0), 5):
        assert episode.success
        for turn in episode.turns:
            text = tokenizer.decode(turn.prompt)
            assert text.endswith("<|im_start|> assistant")
            assert not THEIRS.search(text + turn.response)
            assert turn.response.count("DO:") == len(turn.answer.actions) > 0


def test_a_dialogue_whose_answers_are_lost_in_words_is_not_cloned(orders):
    class Lines(type(orders)):
        def parse(self, response, setting):
            return Answer.naming(re.findall(r"^DO:(.*)", response, re.MULTILINE), setting)

    tokenizer = build_tokenizer(everything_said(WORLD, ROLLOUT, Lines(), seed=0, episodes=20), orders.tags)
    with pytest.raises(RequestError, match=r"does not read 'box is .* spelled in tokens, as the demonstrator meant it"):
        next(demonstrations(WORLD, ROLLOUT, Template(tokenizer, Lines()), seed=0, noise=0.0))


def test_a_solver_says_the_same_in_any_dialogue(orders):
    setting, env = setting_of(WORLD, ROLLOUT), WORLD.make(3)
    said = {
        dialogue: dialogue.respond(*env.demonstrate(2, 0.0, Random(0)), setting) for dialogue in (ThinkAnswer(), orders)
    }
    one, two = (dialogue.parse(text, setting).actions for dialogue, text in said.items())
    assert one == two != ()


def test_thoughts_are_not_measured_in_a_dialogue_that_does_not_tell_them_apart(orders):
    experiment = uncollapse.compose("tiny-sokoban", ["collapse=[mutual_information]"])  # nobody objects
    spoken = attrs.evolve(experiment, dialogue=Named("dialogue", "orders", {}, orders))
    assert list(spoken.collapse[0].component.check(spoken)) == [
        "measures thoughts, and the dialogue orders does not say where one ends"
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_evaluation_and_probe_speak_the_dialogue_of_the_experiment(tmp_path, file):
    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "uncollapse.cli.main", "--plugin", str(file), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    settings = ["dialogue=orders", "model.build.steps=150", "trainer.steps=1", "trainer.mini_batch=8"]
    settings += ["rollout.groups=2", "rollout.group_size=4", "validation.groups=8"]
    flags = [word for setting in settings for word in ("--set", setting)]
    run("train", "tiny-sokoban", "--run-dir", tmp_path / "run", *flags)
    lines = (tmp_path / "run" / "rollouts" / "step_1.jsonl").read_text("utf-8").splitlines()
    turns = [turn for line in lines for turn in json.loads(line)["turns"]]
    assert all("Say DO: and Up or Down" in json.loads(line)["system"] for line in lines)
    assert not any(THEIRS.search(json.loads(line)["system"]) for line in lines)
    assert not any(THEIRS.search(turn["user"] + turn["response"]) for turn in turns)
    assert sum(turn["valid"] for turn in turns) > len(turns) / 2  # the model was cloned in it
    found = json.loads(run("eval", tmp_path / "run", "--groups", 8, "--json"))
    assert found["validation/share_of_named_actions_known"] > 0.5
    sampled = ("--be", 8, "--bu", 2, "--results", tmp_path / "out", "--set", "output.save_samples=true")
    run("probe", "single", "--checkpoint", tmp_path / "run", *sampled)
    (samples,) = (tmp_path / "out").rglob("samples.jsonl")
    texts = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
    assert all("Say DO: and Up or Down" in text["prompt"] for text in texts)
    assert not any(THEIRS.search(text["prompt"] + text["response"]) for text in texts)
