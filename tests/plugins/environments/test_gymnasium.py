"""The environment gymnasium plays what the package of that name plays, in text."""

import gc
import importlib.util
import pickle
import warnings

import pytest
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.environments.common import split_of
from uncollapse.testing import check

NAME = "uncollapse.plugins.environments.packages.gymnasium.play"
installed = pytest.mark.skipif(importlib.util.find_spec("gymnasium") is None, reason="needs gymnasium")
STILL = {"settings": {"is_slippery": False}}


def create(name, **parameters):
    return registry().create("environment", "gymnasium", name, **parameters)


def played(env, *actions):
    return [env.step(action) for action in actions]


@pytest.fixture
def counted():
    """An environment with texts as actions, which counts how often it was closed."""
    import gymnasium

    class Echo(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(8)
        action_space = gymnasium.spaces.Text(5, min_length=1, charset="abc")
        closed = 0

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return "say abc", {}

        def step(self, action):
            return action, float(action == "abc"), action == "abc", False, {}

        def close(self):
            Echo.closed += 1

    gymnasium.register("Echo-v0", Echo)
    yield Echo
    del gymnasium.registry["Echo-v0"]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(f"{NAME}.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        create("FrozenLake-v1")
    assert "pip install 'uncollapse[gymnasium]'" in str(caught.value)


@installed
@pytest.mark.parametrize(
    "spelling",
    [
        "FrozenLake-v1",
        "FrozenLake8x8-v1, view=values",
        "CliffWalkingSlippery-v1",
        "Taxi-v4, split=train",
        "Blackjack-v1, split=validation",
    ],
)
def test_the_laws_of_environments_hold(spelling):
    assert check("environment", f"gymnasium({spelling})") == []


@installed
def test_a_lake_is_crossed_by_the_names_of_its_actions():
    env = create("FrozenLake-v1", **STILL).make(0)
    assert env.initial_observation() == "PFFF\nFHFH\nFFFH\nHFFG\nYou are in row 0, column 0."
    steps = played(env, "down", "Down", "Right", "Right", "DOWN", "Right")
    assert steps[0].observation == "SFFF\nPHFH\nFFFH\nHFFG\nYou are in row 1, column 0."
    assert [(step.reward, step.done, step.success) for step in steps[-2:]] == [(0.0, False, False), (1.0, True, True)]
    with pytest.raises(RunError, match="the episode is over"):
        env.step("Left")
    hole = played(create("FrozenLake-v1", **STILL).make(0), "Right", "Down")[-1]
    assert (hole.reward, hole.done, hole.success) == (0.0, True, False)


@installed
def test_a_passenger_is_driven_home():
    taxi = create("Taxi-v4")
    env = taxi.make(3)
    assert env.initial_observation().endswith(
        "The taxi is in row 0, column 2. The passenger is at R (row 0, column 0). "
        "The destination is Y (row 4, column 0)."
    )
    ways = ["South", "South", "West", "West", "North", "North", "Pickup", *["South"] * 4]
    steps = played(env, "Dropoff", *ways, "Dropoff")
    assert [step.reward for step in steps] == [-10.0, *[-1.0] * 11, 20.0]
    assert "The passenger is in the taxi." in steps[7].observation
    assert (steps[-1].done, steps[-1].success, taxi.actions[:2]) == (True, True, ("South", "North"))


@installed
def test_a_cliff_is_walked_along_and_fallen_from():
    env = create("CliffWalking-v1").make(0)
    ground = "............\n" * 3
    assert env.initial_observation() == f"{ground}PCCCCCCCCCCG\nYou are in row 3, column 0."
    steps = played(env, "Right", "Up", *["Right"] * 11, "Down")
    assert (steps[0].reward, steps[0].done, steps[0].observation) == (-100.0, False, env.initial_observation())
    assert (sum(step.reward for step in steps), steps[-1].done, steps[-1].success) == (-113.0, True, True)


@installed
def test_success_is_the_same_in_values():
    steps = played(create("CliffWalking-v1", view="values").make(0), "Up", *["Right"] * 11, "Down")
    assert [step.observation for step in steps[:2]] == ["24", "25"]
    assert (steps[-1].observation, steps[-1].reward, steps[-1].success) == ("47", -1.0, True)


@installed
def test_cards_are_told_in_words_or_as_values():
    assert create("Blackjack-v1").make(3).initial_observation() == "You have 7. The dealer shows 10."
    assert create("Blackjack-v1", view="values").make(3).initial_observation() == "(7, 10, 0)"
    last = [create("Blackjack-v1").make(seed).step("Stick") for seed in range(60)]
    assert {(step.reward, step.success) for step in last} == {(-1.0, False), (0.0, False), (1.0, True)}


@installed
def test_seed_zero_is_the_start_of_reset_with_that_seed():
    import gymnasium

    for seed in (0, 7, 2**60):
        value = gymnasium.make("Taxi-v4").reset(seed=seed)[0]
        assert create("Taxi-v4", view="values").make(seed).initial_observation() == str(value)
    assert len({create("Taxi-v4").make(seed).key for seed in range(30)}) > 20


@installed
def test_members_start_alike_and_slip_apart():
    def walk(seed, member):
        env, texts = create("FrozenLake-v1").make(seed, member), []
        while not env.done and len(texts) < 6:
            texts.append(env.step("Down").observation)
        return tuple(texts)

    walks = [walk(1, member) for member in range(16)]
    assert [walk(1, member) for member in range(16)] == walks
    assert len(set(walks)) > 8
    assert [walk(2, member) for member in range(16)] != walks


@installed
def test_train_and_validation_share_no_start():
    train, validation = (
        {create("Taxi-v4", split=split).make(seed).key for seed in range(80)} for split in ("train", "validation")
    )
    assert len(train) > 60
    assert len(validation) > 30
    assert not train & validation


@installed
def test_an_episode_is_truncated_without_success_and_says_so():
    steps = played(create("CliffWalking-v1", max_steps=3).make(0), "Up", "Up", "Up")
    assert [step.done for step in steps] == [False, False, True]
    assert (steps[-1].success, steps[-1].observation.splitlines()[-1]) == (False, "The time is up.")
    env = create("FrozenLake-v1", **STILL).make(0)
    assert sum(not step.done for step in played(env, *["Left"] * 100)) == 99


@installed
def test_texts_are_played_and_each_environment_is_closed_once(counted):
    echo = create("Echo-v0")
    assert echo.actions is None
    made, env = counted.closed, echo.make(0)
    refused, other, right = played(env, "abd", "a", "abc")
    assert (refused.metrics, refused.done) == ({"share_of_played_actions_accepted": 0.0}, False)
    assert (other.observation, other.reward, right.reward, right.success) == ("a", 0.0, 1.0, True)
    assert counted.closed == made + 1
    del env
    unfinished = echo.make(1)
    assert counted.closed == made + 1
    del unfinished
    gc.collect()
    assert counted.closed == made + 2


@installed
def test_what_an_environment_prints_and_warns_of_is_left_out(counted, monkeypatch, capfd, recwarn):
    def step(self, action):
        print("a message for people")
        warnings.warn("an old name", DeprecationWarning, stacklevel=1)
        return action, 0.0, False, False, {}

    monkeypatch.setattr(counted, "step", step)
    assert create("Echo-v0").make(0).step("a").observation == "a"
    with pytest.raises(RequestError):
        create("CartPole-v0")  # of which Gymnasium says that it is out of date
    assert (capfd.readouterr(), len(recwarn)) == (("", ""), 0)


@installed
def test_an_environment_is_closed_where_no_task_is_found(counted):
    echo = create("Echo-v0")
    made = counted.closed
    with pytest.raises(RunError, match="no task was found in 2000 draws"):
        echo.maker.play(0, 0, "train" if split_of("say abc") == "validation" else "validation")
    assert counted.closed == made + 1


@installed
def test_names_and_description_may_be_given():
    named = create("Blackjack-v1", names=("Stay", "Card"), description="Win.")
    assert (named.instruction, named.actions) == ("Win.", ("Stay", "Card"))
    assert named.make(3).step("card").observation == create("Blackjack-v1").make(3).step("Hit").observation


@installed
def test_an_environment_and_its_episodes_are_picklable():
    taxi = create("Taxi-v4", split="validation")
    env = taxi.make(5)
    copies = pickle.loads(pickle.dumps((taxi, env)))
    assert copies[0].make(5).initial_observation() == env.initial_observation()
    assert copies[1].step("North") == env.step("North")


@installed
@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("FrozenLake-v2", {}, "did you mean 'FrozenLake-v1'?"),
        ("os:FrozenLake-v1", {}, "names a module to import"),
        ("CartPole-v1", {}, "the observations are no text: Box("),
        ("Reacher-v2", {}, "the environment needs a package: ImportError: The mujoco v2"),
        ("Pendulum-v1", {}, "the actions are neither a list nor a text: Box("),
        ("FrozenLake-v1", {"settings": {"slippery": 1}}, "unexpected keyword argument 'slippery'"),
        ("FrozenLake-v1", {"settings": {"desc": ["FF", "FG"]}}, "FloatingPointError: invalid value"),
        ("FrozenLake-v1", {"settings": {"render_mode": "human"}}, "settings must not have render_mode"),
        ("FrozenLake-v1", {"settings": {"desc": {1}}}, "settings must be plain data"),
        ("FrozenLake-v1", {"settings": {"map_name": None}}, "two episodes of the same seed start differently"),
        ("FrozenLake-v1", {"split": "validation"}, "all seeds start alike"),
        ("Blackjack-v1", {"names": ("Stick",)}, "there are 2 actions, and 1 names"),
        ("MiniGrid-Empty-5x5-v0", {}, "minigrid(MiniGrid-Empty-5x5-v0)"),
        ("CartPole-v1", {"view": "words"}, "use view values for CartPole-v1"),
    ],
)
def test_what_cannot_be_played_in_text_is_refused_with_the_reason(name, parameters, message):
    with pytest.raises(RequestError) as caught:
        create(name, **parameters)
    assert message in str(caught.value)
