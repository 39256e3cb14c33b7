"""Texts become actions of an OpenEnv server by the schema of its actions, and its observations become texts."""

import re

import pytest
from uncollapse.core.errors import EpisodeLostError
from uncollapse.plugins.environments.packages.openenv.environment import refuse_address
from uncollapse.plugins.environments.packages.openenv.fields import UnreadableError, action_form, shown_text
from uncollapse.plugins.environments.packages.openenv.play import result_text
from uncollapse.plugins.environments.packages.openenv.server import Server


def schema(**fields):
    """The schema of a class of actions with these fields; those without a default are required."""
    required = [name for name, each in fields.items() if "default" not in each]
    properties = {"metadata": {"type": "object"}, **fields}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT, OPTIONAL = {"type": "string"}, {"type": "string", "default": ""}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"words": TEXT}, "words"),
        ({"words": OPTIONAL}, "words"),
        ({"note": OPTIONAL, "words": TEXT}, "words"),
        ({"note": OPTIONAL, "message": OPTIONAL}, "message"),
        ({"text": TEXT, "message": TEXT, "note": TEXT}, "message"),
        ({"type": {"const": "move", "default": "move"}, "to": TEXT}, "to"),
    ],
)
def test_the_schema_shows_which_field_takes_the_text(fields, expected):
    given = {"note": "n", "text": "t"} if {"text", "message"} <= set(fields) else {}
    assert action_form(schema(**fields), "", (), given).action("hello") == {**given, expected: "hello"}


@pytest.mark.parametrize(
    ("fields", "arguments", "words"),
    [
        ({"a": TEXT, "b": TEXT}, ("", (), {}), "several fields could take the text: say which with action=a|b"),
        ({"a": TEXT, "b": TEXT}, ("a", (), {}), "need the field 'b': give it in fixed"),
        ({"guess": TEXT}, ("gues", (), {}), "no field 'gues'; did you mean 'guess'?"),
        ({"guess": TEXT}, ("", (), {"player": 1}), "no field 'player'"),
        ({"guess": TEXT}, ("guess", (), {"guess": "x"}), "'guess' takes the text, and fixed has it, too"),
        (
            {"cell": {"type": "integer", "minimum": 0, "maximum": 2}},
            ("", ("a", "b"), {}),
            "has 3 values, and there are 2",
        ),
        ({"guess": TEXT}, ("", ("Up", "up"), {}), "names must differ in more than case"),
        ({"point": {"type": "array"}}, ("", ("a",), {}), "takes a JSON, whose values names cannot number"),
        ({"guess": TEXT, "by": OPTIONAL}, ("guess", (), {"by": {1}}), "fixed must be plain data"),
    ],
)
def test_fields_that_leave_the_action_open_are_refused(fields, arguments, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        action_form(schema(**fields), *arguments)


def test_a_server_without_a_schema_needs_the_name_of_the_field():
    with pytest.raises(ValueError, match="say which field takes the text"):
        action_form({}, "", (), {})
    assert action_form({}, "guess", (), {"by": 1}).action(" 7 ") == {"by": 1, "guess": " 7 "}


@pytest.mark.parametrize(
    ("field", "names", "spelled", "values"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 2}, (), ("0", "1", "2"), [0, 1, 2]),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3}, (), ("1", "2"), [1, 2]),
        ({"type": "integer"}, ("Left", "Right"), ("Left", "Right"), [0, 1]),
        ({"type": "integer", "minimum": 1, "maximum": 2}, ("Left", "Right"), ("Left", "Right"), [1, 2]),
        ({"enum": ["left", "right"], "type": "string"}, (), ("left", "right"), ["left", "right"]),
        ({"anyOf": [{"$ref": "#/$defs/Move"}, {"type": "null"}]}, (), ("up", "down"), ["up", "down"]),
        ({"type": "boolean"}, (), ("true", "false"), [True, False]),
        ({"type": "string"}, ("[fold]", "[call]"), ("[fold]", "[call]"), ["[fold]", "[call]"]),
    ],
)
def test_few_values_are_actions_with_names(field, names, spelled, values):
    whole = {**schema(move=field), "$defs": {"Move": {"enum": ["up", "down"], "type": "string"}}}
    form = action_form(whole, "", names, {})
    assert form.names == spelled
    assert [form.action(name.upper())["move"] for name in spelled] == values
    with pytest.raises(ValueError, match="is not an action; choose one of"):
        form.action("jump")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", " 42 ", 42),
        ("number", "1.5", 1.5),
        ("array", "[1, 2]", [1, 2]),
        ("integer", "4.5", None),
        ("number", "inf", None),
        ("number", "many", None),
        ("array", "[1, 2", None),
        ("array", "[" * 100_000, None),
    ],
)
def test_a_text_is_read_as_the_type_of_its_field(kind, text, value):
    form = action_form(schema(move={"type": kind}), "", (), {})
    assert form.names is None
    if value is None:
        with pytest.raises(UnreadableError, match="This must be a"):
            form.action(text)
    else:
        assert form.action(text) == {"move": value}


def test_observations_show_the_fields_that_are_asked_for():
    observation = {"text": "hi", "board": [1, 2], "note": None, "left": 0, "reward": 1.0}
    assert shown_text(observation, ()) == "text: hi\nboard: [1, 2]\nleft: 0"
    assert shown_text(observation, ("text",)) == "hi"
    assert shown_text(observation, ("left", "text")) == "left: 0\ntext: hi"
    assert shown_text({}, ()) == ""
    with pytest.raises(ValueError, match="no field 'txt'; did you mean 'text'"):
        shown_text(observation, ("txt",))


@pytest.mark.parametrize(
    ("observation", "text"),
    [
        ({"tool_name": "t", "result": {"content": [{"type": "text", "text": "a"}, {"text": "b"}]}}, "a\nb"),
        ({"tool_name": "t", "result": {"content": [{"type": "image"}], "data": {"a": 1}}}, '{"a": 1}'),
        ({"tool_name": "t", "result": "plain"}, "plain"),
        ({"tool_name": "t", "result": None}, ""),
        ({"words": "of the environment"}, "of the environment"),
    ],
)
def test_results_of_tools_are_texts(observation, text):
    assert result_text(observation, ()) == text


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://here:80", "must begin with http://"),
        ("http://", "is no address"),
        ("http://here:port", "is no address"),
        ("http://he re", "is no address"),
        ("", "is no address"),
        ("http://me:secret@here", "must have neither a user"),
        ("http://here/?key=1", "nor a query"),
    ],
)
def test_what_is_no_address_is_refused(url, words):
    with pytest.raises(ValueError, match="url") as caught:
        refuse_address(url)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


def test_addresses_with_and_without_a_scheme_are_taken():
    for url in ("http://here:8000", "https://here/path", "ws://here", "wss://here", "localhost:8000", "127.0.0.1:1"):
        refuse_address(url)


def test_a_lost_episode_names_the_server():
    error = Server("http://here:1", 1.0).lost("it is gone")
    assert isinstance(error, EpisodeLostError)
    assert (error.what, error.where) == ("it is gone", "environment: openenv, url http://here:1")
