"""The verifiers ``contains`` and ``json_schema``."""

import json
import socket

import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core import targets
from uncollapse.core.compose.inner import named_of
from uncollapse.core.errors import RequestError
from uncollapse.plugins.verifiers.json_schema import JsonSchema
from uncollapse.plugins.verifiers.verifiers import Contains

SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"$ref": "#/$defs/age"}},
    "$defs": {"age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}


# --- contains ---


@pytest.mark.parametrize(
    ("answer", "gold", "verdict"),
    [
        ("It is Paris, of course.", "paris", True),
        ("PARIS", "Paris", True),
        ("in new\n  york.", "New York", True),
        ("Ｐａｒｉｓ", "Paris", True),
        ("comparison", "Paris", False),
        ("parisian", "Paris", False),
        ("write C++ here", "C++", True),
        ("(42)", "42", True),
        ("42.", "42", True),
        ("the answer is 42, not 7", "42", True),
        ("142", "42", False),
        ("420", "42", False),
        ("42.5", "42", False),
        ("3.42", "42", False),
        ("-42", "42", False),
        ("it is -42", "42", False),
        ("x42", "42", False),
        ("covid-19", "19", True),
        ("a.*c", "a.*c", True),
        ("abc", "a.c", False),
        ("anything", "", False),
        ("", "Paris", None),
        (" .", "Paris", None),
    ],
)
def test_an_answer_contains_a_right_one_as_whole_words(answer, gold, verdict):
    assert Contains().verify(answer, (gold,)) is verdict


def test_one_of_several_right_answers_is_enough_and_a_long_list_is_not():
    assert Contains().verify("Berlin or Rome", ("Paris", "Rome")) is True
    assert Contains(longest=20).verify("Berlin or Rome", ("Rome",)) is True
    assert Contains(longest=20).verify("Berlin, Rome or Paris", ("Rome",)) is False
    assert Contains().objection("?", ("", " . ")) == "is empty, and every text would contain it"
    assert Contains().objection("?", ("", "Rome")) == ""


@given(st.text(max_size=20), st.text(max_size=20), st.text(alphabet="ab .,\n", max_size=10))
def test_what_equals_a_right_answer_contains_it(before, gold, after):
    if named_of("verifier", "exact", "verifier").component.verify(gold, (gold,)):
        assert Contains().verify(gold, (gold,)) is True
        assert Contains().verify(f"{before} ; {gold} ; {after}", (gold,)) is True


# --- json_schema ---


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ('{"name": "Ada", "age": 36}', True),
        ('```json\n{"name": "Ada", "age": 36}\n```', True),
        ('```\n{"name": "Ada", "age": 36}```', True),
        ('{"name": "Ada", "age": -1}', False),
        ('{"name": "Ada", "age": 36.5}', False),
        ('{"name": "Ada"}', False),
        ('{"name": "Ada", "age": 36, "more": 1}', False),
        ("[]", False),
        ("null", False),
        ('Here it is: {"name": "Ada", "age": 36}', None),
        ('{"name": "Ada", "age": 36} {}', None),
        ('{"name": "Ada", "age": 36, "age": 37}', None),
        ('{"name": "Ada", "age": NaN}', None),
        ("Infinity", None),
        ("{'name': 'Ada'}", None),
        ("```json", None),
        ("", None),
        ("[" * 100_000, None),
        ("9" * 10_000, None),
    ],
)
def test_an_answer_is_right_if_the_schema_accepts_it(answer, verdict):
    assert JsonSchema(SCHEMA).verify(answer, ("whatever",)) is verdict
    assert JsonSchema().verify(answer, (json.dumps(SCHEMA),)) is verdict


def test_a_schema_may_stand_in_a_file_and_one_of_several_is_enough(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    assert JsonSchema(str(tmp_path / "schema.json")).verify('{"name": "Ada", "age": 36}', ()) is True
    assert JsonSchema().verify("7", ('{"type": "string"}', '{"type": "integer"}')) is True
    assert JsonSchema().verify("7", ('{"type": "string"}', "false")) is False
    with pytest.raises(RequestError, match=r"cannot be read[^$]*where: the parameter schema[^$]*fix:   give the path"):
        JsonSchema(str(tmp_path / "none.json")).verify("7", ())


def test_a_schema_says_which_draft_it_is_of():
    """In draft 4 exclusiveMinimum is true or false, and later a number."""
    old = '{"$schema": "http://json-schema.org/draft-04/schema#", "minimum": 1, "exclusiveMinimum": true}'
    assert (JsonSchema().verify("1", (old,)), JsonSchema().verify("2", (old,))) == (False, True)
    assert JsonSchema().objection("?", (old,)) == ""
    assert "is no JSON Schema" in JsonSchema().objection("?", (old.replace("draft-04", "draft-07"),))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("{", "is no JSON Schema"),
        ("7", "is no JSON Schema: it is neither a mapping nor true or false"),
        ('{"type": "text"}', "is no JSON Schema: 'text' is not valid"),
        ('{"$ref": "#/$defs/none"}', "refers to '#/$defs/none', which does not stand in the schema"),
        ('{"properties": {"a": {"items": {"$ref": "#b"}}}}', "refers to '#b'"),
        ('{"$defs": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}}', "refers to 'http://127.0.0.1:9/a.json'"),
    ],
)
def test_what_is_no_schema_is_refused_before_anything_is_played(schema, told):
    assert told in JsonSchema().objection("?", (schema,))


def test_references_and_names_that_look_like_one_are_told_apart():
    inner = '{"$id": "http://a/b", "$defs": {"c": {"type": "null"}}, "$ref": "#/$defs/c"}'
    for schema in (json.dumps(SCHEMA), f'{{"$defs": {{"a": {inner}}}}}', '{"const": {"$ref": "#/none"}}', "true"):
        assert JsonSchema().objection("?", (schema,)) == ""


def test_no_reference_is_fetched(monkeypatch):
    """Neither while schemas are checked, nor while an answer is."""
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a connection was opened"))
    remote = '{"$ref": "http://127.0.0.1:9/a.json"}'
    assert "does not stand in the schema" in JsonSchema().objection("?", (remote,))
    with pytest.raises(RequestError, match=r"refers to 'http://127.0.0.1:9/a.json', which does not stand in it"):
        JsonSchema().verify("7", (remote,))


def test_a_mapping_of_an_experiment_is_checked_when_it_is_composed(bandit, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "Who?", "answer": "anyone"}\n')
    environment = {"name": "dataset", "path": str(tmp_path / "train.jsonl")}
    for schema, told in (({"type": "text"}, "'text' is not valid"), (SCHEMA, "")):
        given = {**environment, "verifier": {"name": "json_schema", "schema": schema}}
        if told:
            with pytest.raises(RequestError, match=told):
                uncollapse.compose({**bandit, "environment": given})
        else:
            made = uncollapse.compose({**bandit, "environment": given}, ["validation.environment=null"]).environment
            step = made.component.make(0).step('{"name": "Ada", "age": 36}')
            assert (step.reward, step.success) == (1.0, True)


@pytest.mark.parametrize("module", ["jsonschema", "referencing"])
def test_without_the_package_the_extra_is_named(monkeypatch, module):
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    error = targets.missing_extra(ImportError(name=module), "the verifier json_schema")
    assert error.fix == "pip install 'uncollapse[json-schema]'"
