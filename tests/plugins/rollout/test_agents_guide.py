"""The plugins in the guide to agents do what it says."""

import re
import sys
from pathlib import Path

import pytest
from rollout_worlds import says, tokenizer
from uncollapse.core.components import Setting
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.plugins import discover
from uncollapse.core.registry import Registry
from uncollapse.core.yaml import loads
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.tools import tools_of
from uncollapse.testing import check

GUIDE = (Path(__file__).parents[3] / "docs" / "agents.md").read_text("utf-8")


@pytest.fixture
def registry(tmp_path):
    made = Registry(discover())
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)):
        file = tmp_path / f"guide{number}.py"
        file.write_text(code, encoding="utf-8")
        made.load_file(file)
    return made


def test_a_dialogue_of_fifteen_lines_keeps_the_laws(registry):
    code, *_ = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    body = [line for line in code.splitlines() if not line.startswith(("import", "from"))]
    assert len(list(filter(None, body))) <= 15
    shout = registry.create("dialogue", "shout")
    assert check("dialogue", shout) == []
    setting = Setting("Go.", ("Up", "Down"), 3, 3, 1, 40, True)
    assert shout.parse("I think.\n!up\n!", setting).actions == ("Up",)


def test_a_tool_with_state_is_called_until_the_episode_ends(registry):
    safes = registry.create("environment", "safes")
    assert check("environment", safes) == []
    template = Template(tokenizer(), ToolCalls(), False)
    rollout = Rollout(think=False, max_tokens=60, max_actions_per_turn=1)
    conversation = Conversation(safes, rollout, template, seed=4)
    for number in (3, 12, 5, 4):
        conversation.advance(
            says(template, f'<tool_call>{{"name": "turn", "arguments": {{"number": {number}}}}}</tool_call>')
        )
    assert [turn.user.removeprefix("Result of turn: ") for turn in conversation.turns] == [
        "The safe is locked.",
        "higher",
        "Error: the dial has the numbers 0 to 9",
        "lower",
    ]
    assert (conversation.stop, conversation.env.tries, conversation.turns[-1].reward) == ("success", 4, 1.0)


def test_a_tool_set_of_ten_lines_is_called_in_a_data_set(registry, tmp_path, monkeypatch):
    (code,) = [each for each in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "Toolset" in each]
    body = re.sub(r'""".*?"""', "", code, flags=re.DOTALL).splitlines()
    assert len([line for line in body if line.strip() and not line.startswith(("import", "from"))]) <= 10
    digits = registry.create("toolset", "digits")
    assert check("toolset", digits) == []
    assert digits.start(0, 0).call("add_digits", {"number": -742}) == "13"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "questions.jsonl").write_text('{"question": "What?", "answer": "4"}\n')
    block, *_ = [each for each in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "with_tools" in each]
    experiment = compose({"model": {"path": str(tmp_path)}, **loads(block)})
    world = experiment.environment.component
    assert [tool.name for tool in tools_of(world)] == ["calculator", "python"]
    env = world.make(0)
    assert env.call("python", {"code": "6 * 7"}).observation == "42"
    assert env.step("4").success
    env.close()


def test_the_wording_of_the_guide_can_be_composed():
    block, *_ = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    spelled = dict(loads(block)["dialogue"])
    dialogue = Registry(discover()).create("dialogue", spelled.pop("name"), **spelled)
    setting = Setting("Push.", ("Left", "Right"), 3, 3, 2, 40, True)
    assert dialogue.system(setting).endswith("<answer>Left</answer>")
    assert dialogue.ask(1, "A box.", 2, setting) == "A box.\n2 moves are left."


def test_the_server_of_the_guide_is_called_as_the_guide_composes_it(tmp_path, monkeypatch):
    pytest.importorskip("mcp")
    (code,) = re.findall(r"```py\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "shop.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    section = GUIDE.partition("## Tools of an MCP server")[2]
    (settings,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    experiment = loads(settings) | {"model": {"path": "nowhere"}}
    (server,) = experiment["environment"]["tools"]
    server["command"] = sys.executable  # a program `python` may be one without the package
    env = compose(experiment).environment.component.make(0)
    assert env.call("price", {"item": "rope", "count": 2}).observation == "2 x rope: 14 coins"
    env.close()
