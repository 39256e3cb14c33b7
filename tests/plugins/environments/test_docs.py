"""The guide's example is a working plugin, and what it prints is what it says."""

import doctest
import pickle
import re
from pathlib import Path

import pytest
from uncollapse.core.plugins import discover
from uncollapse.core.registry import Registry

GUIDE = Path(__file__).parents[3] / "docs" / "environments.md"


def test_printed_examples():
    result = doctest.testfile(str(GUIDE), module_relative=False, encoding="utf-8")
    assert result.attempted > 15
    assert result.failed == 0


@pytest.fixture
def guess(tmp_path):
    """The registry with the guide's plugin file loaded."""
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    path = tmp_path / "guess.py"
    path.write_text(code, encoding="utf-8")
    registry = Registry(discover())
    registry.load_file(path)
    return registry


def test_the_example_plugin_plays(guess):
    environment = guess.create("environment", "guess", 3)
    env = environment.make(seed=5)
    assert environment.make(5, member=1).initial_observation() == env.initial_observation()
    steps = [env.step(answer) for answer in ("x", "1", "2", "3") if answer != str(env.number)]
    assert [(step.reward, step.done) for step in steps] == [(-0.1, False)] * 3
    last = env.step(f" {env.number} ")
    assert (last.reward, last.done, last.success) == (1.0, True, True)
    assert pickle.loads(pickle.dumps(environment)) == environment


def test_the_example_is_described(guess):
    described = guess.describe("environment", "guess")
    assert [(each.name, each.default, each.doc) for each in described.parameters] == [
        ("largest", 20, "The largest number.")
    ]


def test_every_built_in_and_its_parameters_are_in_the_guide():
    text = GUIDE.read_text(encoding="utf-8")
    registry = Registry(discover())
    names = ("sokoban", "sokoban_simple", "sokoban_larger", "frozen_lake", "bandit", "countdown", "dataset")
    for name in (*names, "reasoning_gym", "gymnasium", "minigrid", "textarena", "openenv", "verifiers"):
        assert f"`{name}`" in text
        for parameter in registry.describe("environment", name).parameters:
            assert f"| `{parameter.name}` |" in text, f"{name}: {parameter.name}"
