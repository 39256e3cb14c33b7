"""Episodes and whole runs in which what is sampled reaches a real MCP server."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp")

import uncollapse
from rollout_worlds import tokenizer
from uncollapse.core.components import Completion, RolloutEngineSession
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.tools.mcp import servers
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.rows import episode_metrics
from uncollapse.plugins.rollout.template import Template

SHOP = Path(__file__).parents[1] / "environments" / "mcp_shop.py"


@pytest.fixture(autouse=True)
def ended():
    yield
    servers.end_all()


def asking(started, **parameters):
    """A question that a calculator answers, with the tools of the shop beside it."""
    server = {"name": "mcp", "command": sys.executable, "args": [str(SHOP), str(started)], **parameters}
    return {"name": "with_tools", "of": {"name": "tool_calculator", "largest": 9}, "tools": [server]}


class Solver(RolloutEngineSession):
    """Adds with the server's tool, multiplies with the environment's, and answers; ``dies`` is the task it spoils."""

    def __init__(self, template: Template, dies: str) -> None:
        self.template, self.dies = template, dies

    def generate(self, prompts, sampling, seed):
        return [self.answer(self.template.tokenizer.decode(list(prompt))) for prompt in prompts]

    def answer(self, text):
        task, a, b, c = re.search(r"What is (\((\d+) \+ (\d+)\) \* (\d+))\?", text).groups()
        results = re.findall(r"Result of \w+: (\d+)", text)
        if task == self.dies:
            said = self.call("die")
        elif not results:
            said = self.call("add", a=int(a)) if "Error" not in text else self.call("add", a=int(a), b=int(b))
        elif len(results) == 1:
            said = self.call("calculator", expression=f"{results[0]} * {c}")
        else:
            said = results[1]
        tokens = (*self.template.tokenizer.encode(said), self.template.end_of_turn)
        return Completion(tokens, (-0.5,) * len(tokens), "eos")

    def call(self, name, **arguments):
        return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


def test_calls_reach_the_server_and_one_that_ends_it_costs_its_group(bandit, tmp_path):
    started = tmp_path / "started"
    experiment = compose(
        {**bandit, "environment": asking(started, concurrency=1), "dialogue": "tool_calls", "validation": {"groups": 1}}
    )
    environment = CheckedEnvironment(experiment.environment)
    template = Template(tokenizer(), ToolCalls(), False)
    rollout = Rollout(think=False, max_tokens=99, max_turns=6, max_context=9000)
    spoilt = re.search(r"\(.*\d", environment.make(1).initial_observation())[0]
    lost = []
    engine = Solver(template, spoilt)
    episodes = collect(environment, rollout, engine, template, seeds=[0, 1, 2], group_size=2, seed=0, lost=lost)
    assert [(each.seed, len(each.turns), each.success) for each in episodes] == [
        (seed, 4, True) for seed in (0, 0, 2, 2)
    ]
    assert episode_metrics(episodes)["share_of_calls_wrong"] == pytest.approx(1 / 3)  # add without b
    (group,) = lost
    assert group.seed == 1
    assert group.reason.endswith("has ended: I die")
    assert 2 <= len(started.read_text().split()) <= 3  # started again for the others


PLUGIN = """
import json
from uncollapse.api import Answer, Call, hookimpl
from uncollapse.plugins.dialogue.tool_calls import ToolCalls


class Adds(ToolCalls):
    def parse(self, response, setting):
        assert "add" in {tool.name for tool in setting.tools}
        call = Call("add", json.dumps({"a": len(response), "b": 1000}))
        return Answer("", (call.text,), 1, (call,))


@hookimpl
def register_dialogues(register):
    register("adds", Adds, summary="any response adds its length to 1000, so that a random model calls a tool")
"""


@pytest.mark.slow
def test_a_run_trains_with_the_tools_of_a_server_and_says_which_it_was(bandit, tmp_path, monkeypatch, capsys):
    plugin = tmp_path / "adds.py"
    plugin.write_text(PLUGIN)
    registry().load_file(plugin)
    started = tmp_path / "started"
    monkeypatch.setenv("SHOP_VERSION", "1.2")
    rollout = {**bandit["rollout"], "max_turns": 2, "max_context": 2000}
    validation = {"every": 2, "groups": 2, "environment": None}
    experiment = {**bandit, "rollout": rollout, "validation": validation, "dialogue": "adds"}
    experiment["environment"] = asking(started, inherit=["SHOP_VERSION"], only=["add"])
    experiment["trainer"] = {**bandit["trainer"], "steps": 2, "save_every": 1}
    assert uncollapse.train(experiment, tmp_path / "run").status == "success"
    assert len(started.read_text().split()) == 1  # for training, validation and all episodes
    run = RunDirectory.open(tmp_path / "run")
    digest = run.manifest()["data"]["environment.tools.mcp"]
    assert re.fullmatch(r"MCP server shop 1\.2, tools [0-9a-f]{16}", digest)
    (record,) = [record for record in run.metrics() if record["step"] == 2]
    assert record["train/share_of_calls_failed"] == record["train/share_of_calls_wrong"] == 0.0
    turns = "".join(path.read_text() for path in (tmp_path / "run" / "rollouts").glob("*.jsonl"))
    assert re.search(r"Result of add: 10\d\d", turns)

    servers.end_all()  # as between two processes
    monkeypatch.setenv("SHOP_VERSION", "1.3")
    uncollapse.train(experiment, tmp_path / "run", resume=True, steps=3)
    told = "environment.tools.mcp has other data than before: MCP server shop 1.3, tools "
    assert told in capsys.readouterr().err
    assert f", where it had {digest}" in (tmp_path / "run" / "log.txt").read_text()
