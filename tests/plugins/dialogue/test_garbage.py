"""Responses may be long and without any sense: they are read once, in a time that grows with their length.

A reader that looks at the rest of the text from each of its places needs minutes for 120,000 characters and hours for a
million. Here it would end by the limit of a test, which none of ours comes near.
"""

from __future__ import annotations

import json

import pytest
from uncollapse.core.components import Setting, Tool
from uncollapse.plugins.dialogue.boxed import Boxed
from uncollapse.plugins.dialogue.call_formats import FORMATS
from uncollapse.plugins.dialogue.plain import Plain
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.dialogue.tool_calls import ToolCalls

PARAMETERS = {"type": "object", "properties": {"a": {"type": "array"}}, "required": ["a"]}
TOOL = Tool("f", json.dumps({"name": "f", "description": "It does it.", "parameters": PARAMETERS}))
FREE = Setting("Go.", None, 3, 3, 2, 40, True, (TOOL,))
NAMED = Setting("Go.", ("Up", "Down"), 3, 3, 2, 40, True)
DIALOGUES = {"think_answer": ThinkAnswer(), "boxed": Boxed(), "plain": Plain()}
DIALOGUES |= {name: ToolCalls(format=name) for name in FORMATS}
REPEATED = [
    *("<think>", "<think></think>", "<think></think> <answer>", "<answer>", "\\boxed{", "\\boxed{\\text{", "\ud800"),
    *('<tool_call>{"', "<tool_call>[", "</tool_call>", "[TOOL_CALLS]a", "a[ARGS]", "[CALL_ID]b", "<|tool_call|>"),
    *("{", '{"a":', "[", "(", '"', "\\", " ", "a ", "f(x=", "1+", "not ", "-", "lambda:", "\x00"),
]
OPENINGS = ("", "<tool_call>", "[TOOL_CALLS]a", '{"name": "f", "parameters": {"a": ', "[f(a=", "<|tool_call|>[")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("characters", [120_000, pytest.param(10**6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DIALOGUES)
def test_a_long_response_is_read_in_a_time_that_grows_with_its_length(name, characters):
    setting = NAMED if name == "think_answer" else FREE
    for number, unit in enumerate(REPEATED):
        for opening in ("", OPENINGS[number % len(OPENINGS)]):
            text = (opening + unit * (characters // len(unit)))[:characters]
            assert len(DIALOGUES[name].parse(text, setting).actions) <= 2


@pytest.mark.parametrize("name", FORMATS)
def test_arguments_that_are_nested_as_deeply_as_one_may_write_are_no_error(name):
    call = {
        "hermes": '<tool_call>{"name": "f", "arguments": {"a": %s}}',
        "llama": '{"name": "f", "parameters": {"a": %s}}',
        "mistral": '[TOOL_CALLS]f[ARGS]{"a": %s}',
        "granite": '<|tool_call|>[{"name": "f", "arguments": {"a": %s}}]',
        "pythonic": "[f(a=%s)]",
    }[name]
    for depth in (60, 70, 150, 250, 330, 400, 500, 950, 10_000):
        (read, *_) = DIALOGUES[name].parse(call % ("[" * depth + "]" * depth), FREE).calls
        assert read.fault == ("" if depth == 60 else "broken"), depth


def test_what_a_model_writes_at_length_is_not_told_to_it_at_length():
    for call in ({"name": "g" * 10_000, "arguments": {}}, {"name": "f", "arguments": {"a": [], "b" * 10_000: 1}}):
        (read,) = DIALOGUES["hermes"].parse(f"<tool_call>{json.dumps(call)}</tool_call>", FREE).calls
        assert read.fault in ("unknown", "wrong")
        assert len(read.name + read.problem) < 300
    (read,) = (
        DIALOGUES["hermes"].parse('<tool_call>{"name": "f", "arguments": {"a": "' + "x" * 10_000 + '"}}', FREE).calls
    )
    assert read.problem == f"Error: f was not called: the argument 'a' must be array, not \"{'x' * 63}..."
