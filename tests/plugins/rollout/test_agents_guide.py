"""The plugins in the guide to agents do what it says."""

import re
import sys
from pathlib import Path

import pytest
import uncollapse
from rollout_worlds import says, tokenizer
from uncollapse.core.components import Setting
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.plugins import discover
from uncollapse.core.registry import Registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import loads
from uncollapse.plugins.dialogue.plain import Plain
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.tools import tools_of
from uncollapse.testing import check

GUIDE = (Path(__file__).parents[3] / "docs" / "agents.md").read_text("utf-8")
ENVIRONMENT, TOOL, WORDING, SAFES, TOOLSET = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
TOOLS = "    tools = (Guessing.compare,)\n"
WITH_TOOLS = ENVIRONMENT.replace("\n\n\n@attrs.frozen", f"\n\n{TOOL}\n\n@attrs.frozen", 1).replace(
    "    actions = None\n", f"    actions = None\n{TOOLS}"
)


def load(registry, folder, **texts):
    for name, text in texts.items():
        file = folder / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        registry.load_file(file)
    return registry


@pytest.fixture
def registry(tmp_path):
    return load(Registry(discover()), tmp_path, guess=ENVIRONMENT, shout=WORDING, safes=SAFES, digits=TOOLSET)


def lines(*texts):
    """Return the lines of code that are written, without imports."""
    return [line for text in texts for line in text.splitlines() if line.strip() and not re.match("import|from", line)]


def test_the_examples_are_as_short_as_the_guide_says():
    assert 15 < len(lines(ENVIRONMENT)) <= 25
    assert 5 < len(lines(TOOL, TOOLS)) <= 10
    assert 10 < len(lines(WORDING)) <= 15
    assert TOOLS.strip() in GUIDE
    for said in ("An environment in 25 lines", "Tools in 10 lines", "A wording in 15 lines"):
        assert f"**{said}**" in GUIDE


def test_an_environment_of_twenty_five_lines_keeps_the_laws_and_is_played(registry):
    guess = registry.create("environment", "guess")
    assert check("environment", guess) == []
    template = Template(tokenizer(), Plain(), False)
    conversation = Conversation(guess, Rollout(think=False, max_tokens=40), template, seed=4)
    number = conversation.env.number
    for said in (f"{number % 9 + 1}", f"{number}"):
        conversation.advance(says(template, said))
    assert [(turn.reward, turn.answer.actions) for turn in conversation.turns] == [
        (0.0, (str(number % 9 + 1),)),
        (1.0, (str(number),)),
    ]
    assert conversation.stop == "success"


def test_tools_of_ten_lines_are_offered_and_called(tmp_path):
    guess = load(Registry(discover()), tmp_path, guess=WITH_TOOLS).create("environment", "guess")
    assert check("environment", guess) == []
    template = Template(tokenizer(), ToolCalls(), False)
    conversation = Conversation(guess, Rollout(think=False, max_tokens=60), template, seed=4)
    number = conversation.env.number
    for asked in (number - 1, number):
        call = f'{{"name": "compare", "arguments": {{"number": {asked}}}}}'
        conversation.advance(says(template, f"<tool_call>{call}</tool_call>"))
    conversation.advance(says(template, str(number)))
    assert [turn.user for turn in conversation.turns][1:] == [
        "Result of compare: It is higher.",
        "Result of compare: It is not higher.",
    ]
    assert conversation.stop == "success"


def test_a_dialogue_of_fifteen_lines_keeps_the_laws(registry):
    shout = registry.create("dialogue", "shout")
    assert check("dialogue", shout) == []
    setting = Setting("Go.", ("Up", "Down"), 3, 3, 1, 40, True)
    assert shout.parse("I think.\n!up\n!", setting).actions == ("Up",)


@pytest.mark.parametrize(
    ("code", "dialogue"),
    [
        pytest.param(ENVIRONMENT, "plain", marks=pytest.mark.slow),
        (WITH_TOOLS, "tool_calls"),
        (ENVIRONMENT, "shout"),
    ],
)
def test_two_steps_are_trained_with_each(code, dialogue, bandit, tmp_path):
    plugins = {"guess": code, **({"shout": WORDING} if dialogue == "shout" else {})}
    before = list(uncollapse.registry().plugins)
    load(uncollapse.registry(), tmp_path, **plugins)
    try:
        rollout = {**bandit["rollout"], "max_turns": 2, "max_tokens": 20, "max_context": 1500}
        settings = {**bandit, "environment": "guess", "dialogue": dialogue, "rollout": rollout}
        settings |= {"validation": {"every": 0}, "trainer": {**bandit["trainer"], "steps": 2}}
        assert uncollapse.train(settings, tmp_path / "run").status == "success"
    finally:
        forget([plugin for plugin in uncollapse.registry().plugins if plugin not in before])
    run = RunDirectory.open(tmp_path / "run")
    assert [record["step"] for record in run.metrics()] == [1, 2]
    system = run.read_rollouts(2)[0]["system"]
    assert "Guess the number. Answer with a number alone." in system
    assert ('"name": "compare"' in system) == (dialogue == "tool_calls")
    assert ("Shout !anything in a line of its own." in system) == (dialogue == "shout")


def forget(plugins):
    """So that no later test meets them."""
    registry = uncollapse.registry()
    for plugin in plugins:
        registry.plugins.remove(plugin)
        for spellings in registry._entries.values():
            for spelling in [spelling for spelling, entry in spellings.items() if entry.plugin is plugin]:
                del spellings[spelling]


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
    body = re.sub(r'""".*?"""', "", TOOLSET, flags=re.DOTALL).splitlines()
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
    (block, *_) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
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
