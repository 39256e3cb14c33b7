"""What holds of every built-in environment."""

import json
import os
import pickle
import subprocess
import sys

import pytest
from uncollapse.plugins.environments.plugin import register_environments
from uncollapse.plugins.environments.sokoban import Sokoban

NAMES = ("sokoban", "sokoban_simple", "sokoban_larger", "frozen_lake", "bandit", "countdown")


def registered():
    targets = {}

    def register(name, target, *, summary="", aliases=()):
        assert summary
        module, attribute = target.split(":")
        for spelling in (name, *aliases):
            assert spelling not in targets
            targets[spelling] = getattr(sys.modules.get(module) or __import__(module, fromlist=["_"]), attribute)

    register_environments(register)
    return targets


def test_names():
    targets = registered()
    assert set(targets) == {
        *NAMES,
        "sokoban_coord",
        "dataset",
        "tool_calculator",
        "tool_lookup",
        "with_tools",
        "reasoning_gym",
        "gymnasium",
        "minigrid",
        "textarena",
        "verifiers",
        "openenv",
    }
    assert targets["sokoban"] is targets["sokoban_coord"] is Sokoban


@pytest.fixture(params=NAMES)
def environment(request):
    return registered()[request.param]()


def play(env, actions):
    """Observations and rewards of an episode; a fresh copy is made by pickling, as it is to cross processes."""
    seen = [env.initial_observation()]
    for number in range(6):
        step = env.step(actions[number % len(actions)] if actions else "1 + 1")
        seen.append((step.observation, step.reward, step.done, step.success, dict(step.metrics)))
        if step.done:
            break
    return seen


def test_same_seed_and_member_same_episode(environment):
    first = play(environment.make(11, 2), environment.actions)
    assert play(environment.make(11, 2), environment.actions) == first


def test_members_of_a_group_see_the_same_first_prompt(environment):
    prompts = {environment.make(11, member).initial_observation() for member in range(16)}
    assert len(prompts) == 1
    assert len({environment.make(seed).initial_observation() for seed in range(30)}) > 10


def test_environments_and_episodes_are_picklable(environment):
    env = environment.make(11)
    assert pickle.loads(pickle.dumps(environment)) == environment
    copy = pickle.loads(pickle.dumps(env))
    assert play(copy, environment.actions) == play(env, environment.actions)


def test_train_and_validation_share_no_task(environment):
    def keys(split):
        task = type(environment)(split=split)
        return {task.make(seed).key for seed in range(100)}

    assert not keys("train") & keys("validation")


def test_instruction_is_text(environment):
    assert len(environment.instruction) > 50
    assert environment.instruction == environment.instruction.strip()


def test_metrics_say_whether_the_action_was_valid(environment):
    step = environment.make(0).step(environment.actions[0] if environment.actions else "?")
    assert step.metrics["share_of_played_actions_accepted"] == float(environment.actions is not None)


SCRIPT = """
import json
from uncollapse.plugins.environments import bandit, countdown, frozen_lake, sokoban
made = [sokoban.Sokoban(split="train"), sokoban.SokobanLarger(), frozen_lake.FrozenLake(), bandit.Bandit(),
        countdown.Countdown(split="validation")]
texts = [task.make(seed).initial_observation() for task in made for seed in range(20)]
lake = frozen_lake.FrozenLake(frozen=1.0).make(4, 7)
walk = [lake.step("Left").observation if not lake.done else "" for _ in range(10)]
paid = [bandit.Bandit().make(0, member).payoffs for member in range(20)]
print(json.dumps([texts, walk, paid]))
"""


def test_tasks_and_noise_do_not_depend_on_the_process():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "12345")
    ]
    assert outputs[0] == outputs[1]
    assert len(json.loads(outputs[0])[0]) == 100
