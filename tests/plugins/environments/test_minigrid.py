"""The environment minigrid plays MiniGrid and BabyAI in text."""

import importlib.util
import pickle

import pytest
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.core.registry import registry
from uncollapse.testing import check

installed = pytest.mark.skipif(importlib.util.find_spec("minigrid") is None, reason="needs minigrid")
DOOR = "MiniGrid-DoorKey-5x5-v0"


def create(name, **parameters):
    return registry().create("environment", "minigrid", name, **parameters)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        "uncollapse.plugins.environments.packages.gymnasium.play.importlib.util.find_spec", lambda name: None
    )
    with pytest.raises(MissingExtraError) as caught:
        create(DOOR)
    assert "pip install 'uncollapse[minigrid]'" in str(caught.value)


@installed
@pytest.mark.parametrize(
    "spelling", ["BabyAI-GoToRedBall-v0", f"{DOOR}, view=full, split=train", "MiniGrid-Dynamic-Obstacles-5x5-v0"]
)
def test_the_laws_of_environments_hold(spelling):
    assert check("environment", f"minigrid({spelling})") == []


@installed
def test_a_door_is_opened_with_its_key_and_the_goal_reached():
    env = create(DOOR, view="full").make(3)
    assert env.initial_observation() == (
        "Mission: use the key to open the door and then get to the goal\n"
        "#####\n#.D.#\n#>#.#\n#K#G#\n#####\n"
        "Objects: locked yellow door (1, 2), yellow key (3, 1), goal (3, 3)\n"
        "You are at (2, 1). Your direction is right. You carry nothing."
    )
    actions = [
        "Right",
        "Pickup",
        "Left",
        "Left",
        "Forward",
        "Right",
        "Toggle",
        *["Forward"] * 2,
        "Right",
        *["Forward"] * 2,
    ]
    steps = [env.step(action) for action in actions]
    assert steps[1].observation.endswith("Your direction is down. You carry yellow key.")
    assert "Objects: open yellow door (1, 2), goal (3, 3)" in steps[6].observation
    assert (steps[-1].done, steps[-1].success) == (True, True)
    assert steps[-1].reward == pytest.approx(1 - 0.9 * 12 / 250)
    assert {step.reward for step in steps[:-1]} == {0.0}


@installed
def test_the_agent_sees_what_is_ahead_of_it():
    lines = create("BabyAI-GoToRedBall-v0").make(3).initial_observation().splitlines()
    assert lines[:8] == [
        "Mission: go to the red ball",
        "??#####",
        "??#....",
        "??#....",
        "??#B.K.",
        "??#X..K",
        "??#.X..",
        "??#^...",
    ]
    assert lines[8].startswith("Objects: grey ball (3, 3), red key (3, 5), green box (4, 3), purple key (4, 6)")
    assert lines[9] == "You are at (6, 3). Your direction is right. You carry nothing."


@installed
def test_what_is_carried_is_not_listed_on_the_map():
    env = create(DOOR).make(3)
    for action in ("Right", "Pickup"):
        step = env.step(action)
    assert "yellow key (" not in step.observation
    assert step.observation.endswith("You carry yellow key.")


@installed
def test_the_seed_names_the_world_and_the_member_what_moves_in_it():
    def walk(seed, member):
        env = create("MiniGrid-Dynamic-Obstacles-8x8-v0", view="full").make(seed, member)
        return (env.initial_observation(), *(env.step("Left").observation for _ in range(3)))

    walks = [walk(4, member) for member in range(6)]
    assert [walk(4, member) for member in range(6)] == walks
    assert len({texts[0] for texts in walks}) == 1
    assert len({texts[1:] for texts in walks}) > 3
    assert len({create(DOOR).make(seed).key for seed in range(20)}) > 10


@installed
def test_train_and_validation_share_no_world():
    train, validation = (
        {create(DOOR, split=split).make(seed).key for seed in range(60)} for split in ("train", "validation")
    )
    assert min(len(train), len(validation)) > 5
    assert not train & validation


@installed
def test_a_mission_that_is_not_fulfilled_in_time_is_no_success():
    env = create(DOOR, settings={"max_steps": 3}).make(0)
    steps = [env.step("Left") for _ in range(3)]
    assert [step.done for step in steps] == [False, False, True]
    assert (steps[-1].success, steps[-1].observation.splitlines()[-1]) == (False, "The time is up.")


@installed
def test_an_episode_is_picklable():
    env = create("BabyAI-GoToRedBall-v0").make(1)
    assert pickle.loads(pickle.dumps(env)).step("Forward") == env.step("Forward")


@installed
@pytest.mark.slow
def test_every_world_of_the_package_can_be_played_or_is_refused_with_its_reason():
    import gymnasium
    import minigrid  # noqa: F401

    refused = {}
    for name in sorted(each for each in gymnasium.registry if each.startswith(("MiniGrid-", "BabyAI-"))):
        try:
            world = create(name)
        except RequestError as error:
            refused[name] = str(error)
            continue
        env = world.make(0)
        assert env.initial_observation().startswith("Mission: "), name
        assert all(step.observation for step in [env.step(action) for action in world.actions[:2]]), name
    assert {name for name, reason in refused.items() if "minigrid[wfc]" not in reason} == set()


@installed
@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("BabyAI-GoToRedBal-v0", {}, "did you mean 'BabyAI-GoToRedBall-v0'?"),
        ("FrozenLake-v1", {}, "there is no id 'FrozenLake-v1'"),
        ("MiniGrid-Empty-5x5-v0", {"settings": {"size": 2}}, "gymnasium refuses the settings: AssertionError"),
        ("MiniGrid-Empty-5x5-v0", {"settings": {"sizes": 5}}, "unexpected keyword argument 'sizes'"),
    ],
)
def test_what_the_package_cannot_make_is_refused_with_the_reason(name, parameters, message):
    with pytest.raises(RequestError) as caught:
        create(name, **parameters)
    assert message in str(caught.value)
