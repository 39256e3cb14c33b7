"""Calls of tools in a dialogue: which tools there are, what is wrong with a call, what the model is told."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Answer, Call, Setting, Tool
from uncollapse.plugins.dialogue.call_arguments import objection
from uncollapse.plugins.dialogue.tool_calls import ToolCalls


def tool(name: str = "add", **properties: object) -> Tool:
    parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    return Tool(name, json.dumps({"name": name, "description": f"{name} it.", "parameters": parameters}))


ADD = tool(a={"type": "integer"}, b={"type": "integer"})


def setting(actions=None, tools=(ADD,), limit=3, think=True) -> Setting:
    return Setting("Go.", actions, 5, 9, limit, 50, think, tools)


def call(name: str = "add", **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_calls_are_actions_in_one_line_of_json():
    answer = ToolCalls().parse(f"I add.\n{call(a=1, b=2)}{call(a=3)}", setting())
    texts = ('{"name": "add", "arguments": {"a": 1, "b": 2}}', '{"name": "add", "arguments": {"a": 3}}')
    assert answer == Answer("I add.", texts, 2, (Call("add", '{"a": 1, "b": 2}'), Call("add", '{"a": 3}')))
    assert answer.valid


def test_without_a_call_free_text_is_the_answer_and_names_need_a_call():
    assert ToolCalls().parse(" 42 ", setting()) == Answer("", ("42",), 1)
    assert ToolCalls().parse("<think>so</think>42", setting()) == Answer("so", ("42",), 1)
    assert ToolCalls().parse(call(a=1), setting(tools=())).actions == (call(a=1),)
    answer = ToolCalls().parse("Up", setting(("Up", "Down")))
    assert (answer.valid, answer.calls) == (False, ())
    assert ToolCalls().outcome(0.0, answer, setting()) == "Invalid answer: call a tool."


def test_actions_with_names_are_played_by_a_tool_beside_those_of_the_environment():
    both = setting(("Up", "Turn left"))
    answer = ToolCalls().parse(call("act", action="turn  LEFT") + call(a=1) + call("act", action="jump"), both)
    assert [(each.action, each.fault) for each in answer.calls] == [("Turn left", ""), ("", ""), ("", "wrong")]
    assert answer.actions == ("Turn left", '{"name": "add", "arguments": {"a": 1}}')
    assert answer.calls[2].problem == (
        'Error: act was not called: the argument \'action\' must be one of "Up", "Turn left", not "jump"'
    )
    taken = setting(("Up",), (tool("act"),))
    assert [each.name for each in attrs.evolve(ToolCalls(), listing="template").tools(taken)] == ["act", "act_"]
    assert [each.action for each in ToolCalls().parse(call("act") + call("act_", action="up"), taken).calls] == [
        "",
        "Up",
    ]


def test_the_system_message_describes_the_tools_where_the_template_does_not():
    said = ToolCalls(persona="").system(setting())
    assert said.splitlines()[:3] == ["Go.", "Call at most 3 tools a turn, 9 in all.", "Tools, as JSON schemas:"]
    assert said.splitlines()[3] == ADD.schema
    assert said.endswith(ToolCalls().reply(setting()))
    told = ToolCalls(persona="", listing="template")
    assert (told.system(setting()), told.reply(setting())) == ("Go.\nCall at most 3 tools a turn, 9 in all.", "")
    assert ToolCalls(persona="").system(setting(tools=())) == "Go."


INTEGER = {"type": "integer"}
SCHEMA = {
    "type": "object",
    "properties": {
        "n": INTEGER,
        "x": {"type": "number"},
        "s": {"type": "string", "enum": ["a", "b"]},
        "t": {"type": "boolean", "nullable": True},
        "l": {"type": "array", "items": INTEGER},
        "o": {"type": "object", "properties": {"y": INTEGER}, "required": ["y"]},
        "d": {"type": "object", "additionalProperties": INTEGER},
        "u": {"type": ["integer", "string"]},
        "v": {"anyOf": [INTEGER, {"type": "null"}]},
        "w": {},
    },
    "required": ["n"],
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n": 1}, ""),
        (
            {
                "n": 1,
                "x": 2,
                "s": "a",
                "t": None,
                "l": [1],
                "o": {"y": 1},
                "d": {"k": 1},
                "u": "z",
                "v": None,
                "w": [{}],
            },
            "",
        ),
        ({}, "the argument 'n' is missing"),
        ({"n": 1, "m": 2}, "there is no argument 'm'; the arguments are 'n', 'x'"),
        ({"n": "1"}, "the argument 'n' must be integer, not \"1\""),
        ({"n": 1.0}, "must be integer, not 1.0"),
        ({"n": True}, "must be integer, not true"),
        ({"n": None}, "must be integer, not null"),
        ({"n": 1, "x": False}, "must be number, not false"),
        ({"n": 1, "s": "c"}, 'must be one of "a", "b", not "c"'),
        ({"n": 1, "t": 1}, "must be boolean, not 1"),
        ({"n": 1, "l": ["1"]}, "must be array"),
        ({"n": 1, "l": 1}, "must be array, not 1"),
        ({"n": 1, "o": {}}, "must be object, not {}"),
        ({"n": 1, "d": {"k": "1"}}, "must be object"),
        ({"n": 1, "u": 1.5}, "must be integer or string, not 1.5"),
        ({"n": 1, "v": "x"}, 'must be integer or null, not "x"'),
    ],
)
def test_arguments_are_held_to_the_schema(arguments, said):
    found = objection(arguments, SCHEMA)
    assert said in found if said else found == ""


ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "part": {"$ref": "#/$defs/item"}},
    "required": ["name"],
}
RICH = {
    "type": "object",
    "$defs": {"item": ITEM},
    "properties": {
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1},
        "three": {"const": 3},
        "either": {"oneOf": [{"type": "integer"}, {"type": "string", "pattern": "^a"}]},
        "any": True,
        "none": False,
        "odd": {"type": "file"},
        "elsewhere": {"$ref": "http://example.com/schema"},
    },
}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"items": [{"name": "x", "part": {"name": "y"}}], "three": 3, "either": "ab", "any": [1], "odd": 1}, ""),
        ({}, ""),
        ({"elsewhere": 1}, ""),
        ({"items": 3}, "the argument 'items' must be array, not 3"),
        ({"items": []}, "the argument 'items': [] should be non-empty"),
        ({"items": [{"nme": "x"}]}, "the argument 'items[0]': 'name' is a required property"),
        ({"items": [{"name": "x", "part": {"name": 3}}]}, "the argument 'items[0].part.name': 3 is not of type"),
        ({"three": 4}, "the argument 'three': 3 was expected"),
        ({"either": "b"}, "the argument 'either': 'b' does not match '^a'"),
        ({"none": 1}, "the argument 'none' must be left out, not 1"),
        ({"item": []}, "there is no argument 'item'; the arguments are 'items', 'three'"),
    ],
)
def test_schemas_may_nest_refer_and_choose(arguments, said):
    pytest.importorskip("jsonschema")
    found = objection(arguments, RICH)
    assert said in found if said else found == ""


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "object"}, ""),
        ({"type": "object", "additionalProperties": False}, "there is no argument 'x'; the arguments are none"),
        ({"type": "object", "properties": {}}, "there is no argument 'x'; the arguments are none"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, ""),
        ({"type": "object", "properties": {}, "patternProperties": {"^x": {}}}, ""),
        ({"additionalProperties": {"type": "integer"}}, "the argument 'x' must be integer, not \"1\""),
        ({"additionalProperties": {"type": "string"}}, ""),
    ],
)
def test_a_schema_says_whether_there_may_be_other_arguments(schema, said):
    assert objection({"x": "1"}, schema) == said


PIECES = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "add"',
    ', "arguments": ',
    "{}",
    '{"a": 1}',
    '{"b": "x"}',
    "}",
    "42",
    "<think>",
]


@given(
    text=st.lists(st.sampled_from([*PIECES, "</think>", "\n"]), max_size=15).map("".join) | st.text(),
    free=st.booleans(),
    limit=st.integers(1, 3),
    name=st.sampled_from(["auto", "llama", "mistral", "granite", "pythonic"]),
)
def test_any_text_is_an_answer_within_the_limit(text, free, limit, name):
    answer = ToolCalls(format=name).parse(text, setting(None if free else ("Up",), limit=limit))
    assert len(answer.actions) <= answer.parsed <= limit
    assert len(answer.calls) <= limit + 1
    assert all(bool(each.fault) <= bool(each.problem) for each in answer.calls)
    if answer.calls:
        assert answer.actions == tuple(each.action or each.text for each in answer.calls if not each.problem)
