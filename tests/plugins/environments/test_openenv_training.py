"""Whole runs in the environment openenv, with a real server that fails, hangs and ends in the middle."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import uncollapse
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.testing import check

sys.path.insert(0, str(Path(__file__).parent))
from openenv_worlds import HANGS, RAISES, RUBBISH, free_port, serving, wait_for

if importlib.util.find_spec("openenv") is None:
    pytest.skip("needs openenv", allow_module_level=True)
pytestmark = pytest.mark.slow

SESSIONS = 24
"""Sessions that the server takes: those of 20 episodes, and more since one that hangs keeps its place."""
CALLER = '''
import attrs
from uncollapse.api import Answer, Call, hookimpl
from uncollapse.plugins.dialogue.tool_calls import ToolCalls


@attrs.frozen
class Caller(ToolCalls):
    """Every response calls the tool, so that a random model plays on."""

    def parse(self, response, setting):
        call = Call("turn", f'{{"number": {len(response) % 10}}}')
        return Answer("", (call.text,), 1, (call,))


@hookimpl
def register_dialogues(register):
    register("caller", Caller, summary="any response is a call")
'''


@pytest.fixture
def experiment(bandit):
    """Ten groups a step, without validation."""
    rollout = {**bandit["rollout"], "groups": 10, "max_turns": 2, "max_lost": 0.2}
    trainer = {**bandit["trainer"], "steps": 3, "save_every": 1}
    validation = {"every": 0, "before_train": False, "environment": None}
    return {**bandit, "dialogue": "plain", "rollout": rollout, "trainer": trainer, "validation": validation}


def steps_of(run):
    return [record for record in RunDirectory.open(run).metrics() if record["step"]]


def comparable(run):
    records = [{k: v for k, v in record.items() if not k.startswith("timing_s/")} for record in steps_of(run)]
    return records, (RunDirectory.open(run).latest() / "model" / "model.safetensors").read_bytes()


def test_bad_groups_are_dropped_and_a_run_whose_server_has_died_goes_on_with_another(experiment, tmp_path, capsys):
    port, dies = free_port(), 10024
    world = {"name": "openenv", "url": f"http://127.0.0.1:{port}/faulty", "timeout": 5.0, "action": "guess"}
    experiment["environment"] = world
    with serving(SESSIONS, "faulty", port=port, dies=dies) as (process, url):
        wait_for(f"{url}/faulty", process)
        with pytest.raises(RunError) as caught:
            uncollapse.train(experiment, tmp_path / "run")
        assert process.wait(10) == 1
    assert caught.value.what.startswith("10 of 10 groups were lost, more than rollout.max_lost")
    assert "the server has hung up" in caught.value.what
    assert "--resume" in caught.value.fix
    assert [record.get("rollout/groups_lost", 0) for record in steps_of(tmp_path / "run")] == [2, 1]
    told = capsys.readouterr().err
    for seed, words in (
        (RAISES, "the server fails in step: no such guess"),
        (RUBBISH, "the server's answer has the reward 'much', which is no finite number"),
        (HANGS, "the server has not answered step in 5 s"),
    ):
        where = f"(environment: openenv, url {world['url']})"
        assert re.search(rf"the group of seed {seed}, member [01]: {words} {re.escape(where)}\n", told)
    with serving(SESSIONS, "faulty", port=port) as (process, url):
        wait_for(f"{url}/faulty", process)
        assert uncollapse.train(experiment, tmp_path / "run", resume=True).status == "success"
        assert uncollapse.train(experiment, tmp_path / "whole").status == "success"
    assert [record["train/rows"] for record in steps_of(tmp_path / "run")] == [16, 18, 20]
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_the_laws_of_environments_hold():
    with serving(SESSIONS, "guess", "safe") as (process, url):
        wait_for(f"{url}/guess", process)
        for spelling in (f"{url}/guess, failures=told, split=train", f"{url}/safe"):
            assert check("environment", f"openenv({spelling})") == []


def test_a_run_calls_the_tools_of_the_server(experiment, tmp_path):
    path = tmp_path / "caller.py"
    path.write_text(CALLER)
    registry().load_file(path)
    with serving(SESSIONS, "safe") as (process, url):
        wait_for(f"{url}/safe", process)
        world = {"name": "openenv", "url": f"{url}/safe", "description": "Open the safe."}
        rollout = {**experiment["rollout"], "max_turns": 4, "max_context": 1200}
        trainer = {**experiment["trainer"], "steps": 1}
        own = {"environment": world, "dialogue": "caller", "rollout": rollout, "trainer": trainer}
        assert uncollapse.train({**experiment, **own}, tmp_path / "run").status == "success"
    records = steps_of(tmp_path / "run")
    assert [record.get("rollout/groups_lost", 0) for record in records] == [0]
    assert records[0]["train/success"] > 0
