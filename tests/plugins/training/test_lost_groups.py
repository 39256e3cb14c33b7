"""Groups that an environment loses are dropped and named, and a run goes on until they are too many."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import threading

import pytest
import uncollapse
from uncollapse.core.errors import EpisodeLostError, RunError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.rollout.lost import LostGroup, require_few_lost

PLUGIN = '''
import os, socket
import attrs
from uncollapse.api import Answer, Env, Environment, Step, hookimpl
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer


@attrs.frozen
class Remote(Environment):
    """Asks a server for the reply to each action."""

    port: int = 0
    instruction = "Say anything."
    actions = None

    def make(self, seed, member=0):
        return Player(self, seed, member)


class Player(Env):
    def __init__(self, world, seed, member):
        self.world, self.seed, self.member = world, seed, member
        self.talk("make")

    def talk(self, word):
        with socket.create_connection(("127.0.0.1", self.world.port), timeout=30) as connection:
            connection.sendall(f"{word} {self.seed} {self.member}\\n".encode())
            if not (reply := connection.makefile().readline()):
                raise ConnectionResetError("the server has hung up")
        return reply

    def initial_observation(self):
        return f"task {self.seed}"

    def step(self, action):
        return Step("on", float(self.talk("step")), success=self.member == 0)


class Talks(ThinkAnswer):
    """Every response is an answer, so that a random model plays on."""

    def parse(self, response, setting):
        answer = super().parse(response, setting)
        return answer if answer.valid else Answer("", ("on",), 1)


@hookimpl
def register_dialogues(register):
    register("talks", Talks, summary="any response is an answer")


@hookimpl
def register_environments(register):
    register("remote", Remote, summary="asks a server")
'''


class Server:
    """Answers every line with a reward, but hangs up on what ``refuses`` says."""

    def __init__(self):
        self.refuses = lambda word, seed, member: False
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                word, seed, member = connection.makefile().readline().split()
                if not self.refuses(word, int(seed), int(member)):
                    connection.sendall(f"{(int(seed) + int(member)) % 3}\n".encode())


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "remote.py"
    path.write_text(PLUGIN)
    registry().load_file(path)
    return path


@pytest.fixture
def server():
    server = Server()
    yield server
    server.socket.close()


@pytest.fixture
def remote(bandit, server, plugin):
    """Ten groups a step; none is validated, since a validation has tasks of its own."""
    rollout = {**bandit["rollout"], "groups": 10, "max_turns": 2}
    trainer = {**bandit["trainer"], "steps": 2, "save_every": 1}
    validation = {"every": 0, "before_train": False, "environment": None}
    environment = {"name": "remote", "port": server.port}
    own = {"environment": environment, "rollout": rollout, "trainer": trainer, "validation": validation}
    return {**bandit, **own, "dialogue": "talks"}


def steps_of(run):
    return [record for record in RunDirectory.open(run).metrics() if record["step"]]


def test_a_lost_group_is_dropped_and_named_and_the_run_goes_on(remote, server, tmp_path, capsys):
    server.refuses = lambda word, seed, member: (word, seed, member) == ("step", 10013, 1)
    assert uncollapse.train(remote, tmp_path / "run").status == "success"
    records = steps_of(tmp_path / "run")
    assert [record.get("rollout/groups_lost", 0) for record in records] == [0, 1]
    assert [record["train/rows"] for record in records] == [20, 18]
    episodes = [RunDirectory.open(tmp_path / "run").read_rollouts(step) for step in (1, 2)]
    assert [[each["group"] for each in of_step if "lost" in each] for of_step in episodes] == [[], [10013]]
    assert "has lost its connection in step" in episodes[1][-1]["lost"]
    told = capsys.readouterr().err
    assert (
        "warning: 1 of 10 groups were lost and are dropped:\n  the group of seed 10013, member 1: environment" in told
    )
    assert "has lost its connection in step: ConnectionResetError: the server has hung up\n" in told


@pytest.mark.slow
def test_a_run_ends_where_more_than_a_tenth_are_lost_and_goes_on_when_the_server_is_back(remote, server, tmp_path):
    server.refuses = lambda word, seed, member: seed in (10011, 10015)
    with pytest.raises(RunError) as caught:
        uncollapse.train(remote, tmp_path / "run")
    assert caught.value.what.startswith("2 of 10 groups were lost, more than rollout.max_lost, 0.1, allows: ")
    assert (caught.value.where, "--resume" in caught.value.fix) == ("the group of seed 10011, member 0", True)
    assert len(steps_of(tmp_path / "run")) == 1
    server.refuses = lambda word, seed, member: False
    uncollapse.train(remote, tmp_path / "run", resume=True)
    uncollapse.train(remote, tmp_path / "whole")
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def comparable(run):
    records = [{k: v for k, v in record.items() if not k.startswith("timing_s/")} for record in steps_of(run)]
    return records, (RunDirectory.open(run).latest() / "model" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"advantage": "remax"}, {"filter": "top"}, {}])
def test_fewer_groups_are_a_step_like_any_other(remote, server, tmp_path, more):
    server.refuses = lambda word, seed, member: seed in (10001, 10004, 10012)
    experiment = {**remote, "rollout": {**remote["rollout"], "max_lost": 0.5}}
    if "advantage" in more:
        experiment["advantage"] = "remax"
    if "filter" in more:
        experiment["rollout"]["batch"] = "dynamic"
        experiment["filter"] = {"select": "top_p(1, include_zero=false)"}
    assert uncollapse.train(experiment, tmp_path / "run").status == "success"
    records = steps_of(tmp_path / "run")
    if "filter" in more:  # it has sampled another round in place of what it lacks
        assert records[0]["rollout/groups_lost"] == 3
        assert records[0]["rollout/rounds"] == 2
    else:
        assert [record.get("rollout/groups_lost", 0) for record in records] == [2, 1]
        assert [record["train/rows"] for record in records] == [16, 18]


@pytest.mark.slow
def test_ranks_agree_on_what_is_lost(remote, server, plugin, tmp_path):
    server.refuses = lambda word, seed, member: seed in (10003, 10014)
    (tmp_path / "experiment.yaml").write_text(json.dumps(remote))
    words = ["train", str(tmp_path / "experiment.yaml"), "--plugin", str(plugin), "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "uncollapse.cli.main", *words, "--ranks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [record.get("rollout/groups_lost", 0) for record in steps_of(tmp_path / "run")] == [1, 1]
    assert done.stderr.count("warning: 1 of 10 groups were lost") == 2


# --- how many are too many ---


def lost(*seeds):
    return [LostGroup(seed, 0, EpisodeLostError("down", "games:80")) for seed in seeds]


@pytest.mark.parametrize(
    ("count", "groups", "share"), [(1, 10, 0.1), (2, 20, 0.1), (3, 30, 0.1), (1, 2, 0.5), (0, 8, 0.0)]
)
def test_a_tenth_may_be_lost(count, groups, share):
    warning = require_few_lost(lost(*range(count)), groups, share)
    assert warning.count("\n") == count


@pytest.mark.parametrize(("count", "groups", "share"), [(2, 10, 0.1), (3, 20, 0.1), (1, 8, 0.1), (1, 1, 1.0)])
def test_more_end_the_run_and_so_does_the_last_one(count, groups, share):
    with pytest.raises(RunError, match=rf"{count} of {groups} groups were lost.*: down \(games:80\)\n  where: the gro"):
        require_few_lost(lost(*range(count)), groups, share)


def test_a_lost_group_is_sent_between_processes():
    (group,) = lost(7)
    sent = pickle.loads(pickle.dumps(group))
    assert (sent.seed, sent.member, sent.reason, type(sent.error)) == (7, 0, "down (games:80)", EpisodeLostError)
