"""The laws of dialogues."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import attrs

from ...core.components import Answer, Call, Setting, Tool
from ...core.compose.named import Named
from ...plugins.rollout.dialogue import CheckedDialogue
from ..problems import laws, require

_NAMES = ("Up", "turn left", "a1")
_TEXTS = ("42", "x = 1, y = 2", "I do not know.")
_THOUGHTS = ("", "The box is left of me.\nSo I go there.", "1 < 2")
_RESPONSES = (
    "",
    " \n",
    "Up",
    "UP, Up, Up, up and jump",
    "\\boxed{Up",
    "<think>Up</think>",
    "<answer></answer>" * 3,
    "</answer></think><answer><think>",
    '{"name": "Up", "arguments": {"x": [',
    "||" * 50,
    "ü\u0000\ud83d",
    "(((((" * 200,
)
_INVALID = Answer(parsed=1)
_PARAMETERS = '{"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}'
_TOOL = Tool("add", f'{{"name": "add", "description": "Add a number.", "parameters": {_PARAMETERS}}}')


def settings() -> Iterator[Setting]:
    """Yield settings with names and free text, one action a turn and several, with and without a thought."""
    for actions, several, think in product((_NAMES, None), (1, 3), (True, False)):
        yield Setting(
            instruction="Walk to the goal.\nIt is marked {x}.",
            actions=actions,
            max_turns=5,
            max_actions=10,
            max_actions_per_turn=several,
            max_tokens=100,
            think=think,
        )


def _writes(named: Named) -> None:
    """A dialogue writes a text for each part of a conversation, and each time the same."""
    dialogue = CheckedDialogue(named)
    answers = (Answer(), Answer("t", ("Up",), 1), _INVALID)

    def written(setting: Setting) -> dict[str, list[str]]:
        return {
            "opening": [dialogue.opening(setting.think)],
            "system": [dialogue.system(setting)],
            "reply": [dialogue.reply(setting)],
            "ask": [dialogue.ask(number, f"at {number}", 10 - number, setting) for number in (1, 2)],
            "outcome": [dialogue.outcome(reward, answer, setting) for reward in (-0.1, 1.0) for answer in answers],
            "summary": [dialogue.summary(answer) for answer in answers],
        }

    for setting in settings():
        first, second = written(setting), written(setting)
        for method, texts in first.items():
            require(named, method, texts == second[method], "says something else the second time")


def _tells_the_task(named: Named) -> None:
    """A dialogue shows the instruction, the names of the actions and every observation."""
    dialogue = CheckedDialogue(named)
    for setting in settings():
        asked = dialogue.ask(3, "a box at (2, 1)\nand a wall", 4, setting)
        require(named, "ask", "a box at (2, 1)\nand a wall" in asked, "leaves the observation out, or changes it")
        shown = f"{dialogue.system(setting)}\n{asked}"
        require(named, "system", setting.instruction in shown, "leaves the instruction out, or changes it")
        missing = [name for name in setting.actions or () if name not in shown]
        require(named, "system", not missing, f"does not name the action {missing[:1]}")


def _reads_what_it_says(named: Named) -> None:
    """A dialogue reads the actions of its own responses: each alone, and as many as a turn may have."""
    dialogue = CheckedDialogue(named)
    for setting in settings():
        choices: list[tuple[str, ...]] = [(action,) for action in setting.actions or _TEXTS]
        if setting.actions is not None:
            choices.append(setting.actions[: setting.max_actions_per_turn])
        for actions, thought in product(choices, _THOUGHTS):
            text = dialogue.respond(thought, actions, setting)
            answer = dialogue.parse(text, setting)
            what = f"read {answer} in {text!r}, which respond says for {actions}"
            require(named, "parse", answer.valid and answer.actions == actions, what)


def _reads_anything(named: Named) -> None:
    """A dialogue reads any text, each time in the same way, and never more actions than a turn may have."""
    dialogue = CheckedDialogue(named)
    for setting in settings():
        opening = dialogue.opening(setting.think)
        whole = dialogue.respond("so", (setting.actions or _TEXTS)[:1], setting)
        many = dialogue.respond("", (setting.actions or _TEXTS) * 4, attrs.evolve(setting, max_actions_per_turn=100))
        cut = [whole[:length] for length in range(len(opening), len(whole))]
        for response in [*(opening + text for text in _RESPONSES), *cut, whole * 20, many]:
            same = dialogue.parse(response, setting) == dialogue.parse(response, setting)
            require(named, "parse", same, f"reads {response[:80]!r} otherwise the second time")


def _finds_no_action_in_nothing(named: Named) -> None:
    """A dialogue finds no action in a response that says nothing, and none that the environment does not have."""
    dialogue = CheckedDialogue(named)
    for setting in settings():
        answer = dialogue.parse(dialogue.opening(setting.think), setting)
        require(named, "parse", not answer.valid, f"read {answer.actions} in a response of nothing at all")
        if setting.actions is not None:
            text = dialogue.respond("", ("no such action",), attrs.evolve(setting, actions=None))
            answer = dialogue.parse(text, setting)
            require(named, "parse", not answer.valid, f"takes {text!r} for valid, which names no action there is")


def _calls_tools(named: Named) -> None:
    """A dialogue that calls tools reads the calls that it writes, says what is wrong with others, and shows results."""
    dialogue = CheckedDialogue(named)
    if not dialogue.calls_tools:
        return
    for template in ("", "<tool_call>"):
        spoken = dialogue.adapted(template, bool(template))
        for plain in settings():
            setting = attrs.evolve(plain, tools=(_TOOL,))
            right, wrong = Call("add", '{"number": 1}'), Call("add", '{"number": "one"}')
            answer = spoken.parse(spoken.respond("", (right.text,), setting), setting)
            what = f"read {answer}, where respond says {right.text}"
            require(named, "parse", answer.valid and answer.actions == (right.text,), what)
            require(named, "parse", [call.problem for call in answer.calls] == [""], what)
            answer = spoken.parse(spoken.respond("", (wrong.text,), setting), setting)
            told = [bool(call.problem and call.fault) for call in answer.calls]
            require(named, "parse", told == [True] and not answer.valid, f"takes {wrong.text} for right")
            spoken.result(right, "a box at (2, 1)\nand a wall", setting)
            described = "add" in spoken.system(setting) or _TOOL in spoken.tools(setting)
            require(named, "tools", described, "does not describe the tools, and neither does system")


LAWS = {
    "dialogue": laws(
        _writes, _tells_the_task, _reads_what_it_says, _reads_anything, _finds_no_action_in_nothing, _calls_tools
    )
}
