"""The environment openenv plays what a real server offers, and tells what is wrong with one."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError, MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.environments.packages.openenv.fields import action_form
from uncollapse.plugins.environments.packages.openenv.play import Game
from uncollapse.plugins.environments.packages.openenv.server import Server
from uncollapse.plugins.rollout.awaiting import settled
from uncollapse.plugins.rollout.borders import CheckedEnvironment

sys.path.insert(0, str(Path(__file__).parent))
from openenv_worlds import DRIFTS, HANGS, RAISES, RUBBISH, free_port, serving, wait_for

if importlib.util.find_spec("openenv") is None:
    pytest.skip("needs openenv", allow_module_level=True)
from websockets.sync.server import serve

SESSIONS = 12
"""Sessions that the server takes of each game."""
ACCEPTED = "share_of_played_actions_accepted"


@pytest.fixture(scope="module")
def server():
    with serving(SESSIONS) as (process, url):
        import openenv.core  # noqa: F401 - it takes as long as the server to start

        wait_for(f"{url}/guess", process)
        yield url


@pytest.fixture
def create(server):
    return lambda game, **parameters: registry().create("environment", "openenv", f"{server}/{game}", **parameters)


def limits(text):
    return [int(word.strip(".")) for word in text.splitlines()[0].split() if word.strip(".").isdecimal()]


def test_a_number_is_found_by_halving(create):
    environment = create("guess", shown=["text"], opening="A game.")
    assert (environment.instruction, environment.actions, environment.tools) == ("Find a number.", None, ())
    env = settled(environment.make, 3)
    assert env.initial_observation() == "A game.\nA number from 30 to 80."
    low, high, rewards = 30, 80, []
    while not env.done:
        guess = (low + high) // 2
        step = settled(env.step, str(guess))
        rewards.append(step.reward)
        low, high = (guess + 1, high) if step.observation == "higher" else (low, guess - 1)
    assert rewards == [*([-0.1] * (len(rewards) - 1)), 1.0]
    assert (step.observation, step.done, step.success, step.metrics) == ("Yes.", True, True, {ACCEPTED: 1.0})
    with pytest.raises(RunError, match="the episode is over"):
        settled(env.step, "1")


def test_what_the_server_does_not_take_is_told_to_the_model(create):
    env = settled(create("guess", failures="told").make, 3)
    steps = [settled(env.step, text) for text in ("1" * 21, "many", "30")]
    assert [step.observation.partition(":")[0] for step in steps] == ["This cannot be played", "Error", "text"]
    assert [(step.reward, step.done, step.metrics[ACCEPTED]) for step in steps] == [
        (0.0, False, 0.0),
        (0.0, False, 0.0),
        (-0.1, False, 1.0),
    ]


def test_tools_of_the_server_are_the_tools_of_the_environment(create):
    environment = create("safe", description="Open the safe.")
    assert [tool.function["parameters"]["properties"] for tool in environment.tools] == [
        {"number": {"type": "integer", "description": "The number to stop at."}},
        {},
    ]
    env = settled(environment.make, 7)
    assert env.initial_observation() == "Begin."
    calls = [("turn", 3), ("turn", 99), ("nothing", 1), ("turn", 7)]
    steps = [settled(env.call, name, {"number": number}) for name, number in calls]
    assert [step.observation for step in steps] == [
        "higher",
        "Error: Error calling tool 'turn': the dial has the numbers 0 to 9",
        "Error: Unknown tool: 'nothing'",
        "It opens.",
    ]
    assert [(step.reward, step.done, step.success) for step in steps[2:]] == [(0.0, False, False), (1.0, True, True)]
    other = settled(environment.make, 7)
    assert settled(other.call, "read_note", {}).observation == '{"numbers":10}'
    spoken = settled(other.step, "Open!")
    assert (spoken.reward, spoken.done, spoken.metrics[ACCEPTED]) == (0.0, False, 0.0)


def test_members_start_alike_and_splits_have_no_task_in_common(create):
    starts = {}
    for split in ("train", "validation"):
        environment = create("guess", split=split)
        starts[split] = {settled(environment.make, seed, seed % 3).initial_observation() for seed in range(8)}
        assert len(starts[split]) > 4
        same = {settled(environment.make, 5, member).initial_observation() for member in range(3)}
        assert len(same) == 1
    assert not starts["train"] & starts["validation"]


@pytest.mark.parametrize(
    ("game", "parameters", "words"),
    [
        ("seedless", {}, "two sessions start differently with the same seed: 'text: A number from"),
        ("hidden", {}, "two sessions start differently with the same seed, in number"),
        ("same", {"split": "train"}, "all seeds start alike, so there is no split train"),
        ("guess", {"shown": ["txt"]}, "no field 'txt'; did you mean 'text'?"),
        ("guess", {"action": "gues"}, "no field 'gues'; did you mean 'guess'?"),
        ("guess", {"reset": {"seed": 3}}, "reset must not have seed"),
        ("guess", {"reset": {"largest": "a"}}, "the server answers with an error: unsupported operand"),
        ("cells", {}, "say which with action=cell|player"),
        ("safe", {"action": "text"}, "action is of actions with a field for a text"),
        ("nowhere", {}, "the server cannot be reached: Failed to connect to ws://127.0.0.1"),
    ],
)
def test_what_cannot_be_played_is_refused(create, game, parameters, words):
    with pytest.raises(RequestError) as caught:
        create(game, **parameters)
    assert words in str(caught.value)


def test_fields_that_may_differ_are_named(create):
    assert create("hidden", ignored=["number"]).actions is None
    assert create("cells", fixed={"player": "x"}).actions == tuple("012345678")
    env = settled(create("moves").make, 0)
    with pytest.raises(ValueError, match="'up' is not an action; choose one of left, right"):
        settled(env.step, "up")
    assert "'move': 'left'" in settled(env.step, "Left").observation


def test_a_start_that_differs_within_a_group_is_named(create):
    component = create("drifting")
    environment = CheckedEnvironment(Named("environment", "openenv", {}, component))
    environment.make(DRIFTS - 1)
    environment.make(DRIFTS, 0)
    with pytest.raises(RunError, match=f"differs between the members of group {DRIFTS}"):
        environment.make(DRIFTS, 1)


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (RAISES, "the server fails in step: no such guess"),
        (RUBBISH, "the reward 'much', which is no finite number"),
        (HANGS, "the server has not answered step in 1 s"),
    ],
)
def test_what_goes_wrong_on_the_server_loses_the_episode(create, seed, words):
    env = settled(create("faulty", timeout=1.0).make, seed)
    with pytest.raises(EpisodeLostError) as caught:
        settled(env.step, "1")
    assert words in caught.value.what
    assert "/faulty" in caught.value.where


def observed(**changes):
    data = {"observation": {"text": "hi"}, "reward": 1, "done": False, **changes}
    return json.dumps({"type": "observation", "data": data})


@contextmanager
def talking(answer):
    """A server that answers a reset as it should, and whatever comes then with ``answer``; ``None`` hangs up."""

    def handle(connection):
        connection.recv()
        connection.send(observed())
        connection.recv()
        if answer is not None:
            connection.send(answer)
            connection.recv()

    with serve(handle, "127.0.0.1", 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "the server has hung up, or its answer to step cannot be read (ConnectionClosed"),
        ("nonsense", "cannot be read (JSONDecodeError"),
        ("[" * 100_000, "cannot be read (RecursionError"),
        (b"\xff", "cannot be read (UnicodeDecodeError"),
        ("[]", "cannot be read (AttributeError"),
        ('{"type": "observation", "data": 3}', "cannot be read (AttributeError"),
        ('{"type": "error", "data": 3}', "cannot be read (AttributeError"),
        ('{"type": "error", "data": {"message": "no", "code": "SESSION_ERROR"}}', "the server fails in step: no"),
        (observed(observation=3), "the server's answer has no observation, but 3"),
        (observed(observation={}), "the server's observation has no field 'text'"),
        (observed(reward=float("nan")), "the reward nan, which is no finite number"),
        (observed(reward="1"), "the reward '1', which is no finite number"),
        (observed(done="no"), "done = 'no', which is neither true nor false"),
    ],
)
def test_an_answer_that_is_none_loses_the_episode(answer, words):
    form = action_form({}, "text", (), {})
    with talking(answer) as url:
        game = Game(Server(url, 5.0), ("text",), "", "{}", form, 1.0, "told")
        env = settled(game.start, 0, "all")
        assert env.initial_observation() == "hi"
        with pytest.raises(EpisodeLostError) as caught:
            settled(env.step, "on")
        assert words in caught.value.what
        assert caught.value.where == f"environment: openenv, url {url}"


def test_sessions_are_closed_and_a_full_server_is_asked_again(create):
    environment, hasty = create("guess"), create("guess", timeout=0.5)
    held = []
    for _ in range(3):
        held.clear()  # nobody tells these episodes that they are over
        held += [settled(environment.make, seed) for seed in range(SESSIONS)]
        assert len({env.initial_observation() for env in held}) > 4
    with pytest.raises(EpisodeLostError) as caught:
        settled(hasty.make, 0)
    assert f"takes no further session: Server at capacity: {SESSIONS}/{SESSIONS}" in caught.value.what
    assert "max_concurrent_envs" in caught.value.fix


def test_a_server_with_too_few_sessions_is_refused_when_composed(server):
    experiment = {
        "model": {"path": "somewhere"},
        "environment": {"name": "openenv", "url": f"{server}/guess"},
        "dialogue": "plain",
        "rollout": {"groups": 7, "group_size": 2},
        "validation": {"groups": 2, "group_size": 1},
        "trainer": {"mini_batch": 2, "micro_batch": 2},
    }
    with pytest.raises(RequestError) as caught:
        compose(experiment)
    assert f"takes {SESSIONS} sessions at a time, and rollout.groups * rollout.group_size = 14" in str(caught.value)
    assert compose(experiment, ["rollout.groups=6"]).rollout.groups == 6
    with pytest.raises(RequestError, match="offers"):
        compose(experiment, ["rollout.groups=6", f"environment.url={server}/safe"])


def test_episodes_are_played_side_by_side_and_leave_the_process_as_it_was(create):
    environment = create("guess")
    before = dict(os.environ)
    copied = settled(pickle.loads(pickle.dumps(environment)).make, 3).initial_observation()
    with ThreadPoolExecutor(SESSIONS) as threads:
        episodes = list(threads.map(lambda seed: settled(environment.make, seed), range(SESSIONS)))
        steps = list(threads.map(lambda env: settled(env.step, "-1"), episodes))
    assert [step.observation for step in steps] == ["text: higher\ntries: 1"] * SESSIONS
    assert dict(os.environ) == before
    assert copied == episodes[3].initial_observation()


def test_a_server_that_is_down_is_named():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RequestError) as caught:
        registry().create("environment", "openenv", url)
    assert "the server cannot be asked for" in caught.value.what
    assert "Connection refused" in caught.value.what
    assert (caught.value.where, caught.value.exit_code) == (f"environment: openenv, url {url}", 2)
    assert caught.value.fix.startswith("start the server, or mend url")


def test_without_the_package_the_extra_is_named(monkeypatch):
    module = "uncollapse.plugins.environments.packages.openenv.environment"
    monkeypatch.setattr(f"{module}.importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        registry().create("environment", "openenv", "http://localhost:1")
    assert "pip install 'uncollapse[openenv]'" in str(caught.value)
