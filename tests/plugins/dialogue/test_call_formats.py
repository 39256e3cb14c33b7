"""Calls are read as model cards and engines define them; whatever else a model writes is never an error.

The texts are in ``call_texts.py``. What vLLM's parsers read in them is in ``tests/peers/vllm_calls.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from call_texts import BROKEN, JW, TEXTS, J, tagged
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.dialogue.call_formats import FORMATS, format_of


def read(name: str, text: str):
    before, written = FORMATS[name].read(text)
    return before, [BROKEN if call.broken else (call.name, dict(call.arguments)) for call in written]


@pytest.mark.parametrize(
    ("name", "text", "before", "calls"), [(name, *case) for name, cases in TEXTS.items() for case in cases]
)
def test_calls_are_read(name, text, before, calls):
    assert read(name, text) == (before, calls)


AB, CITY = '{"a": 1, "b": 2}', '{"city": "Bonn"}'
PEER = json.loads((Path(__file__).parents[2] / "peers" / "vllm_calls.json").read_text("utf-8"))["formats"]
STRING = "vLLM hands a text on as it is; ours reads the JSON in it, as it is written twice in the API of OpenAI"
UNFINISHED = "vLLM takes what has come so far of a list or an object that is not finished; ours is told the model"
NO_OBJECT = "vLLM hands on arguments that are no object, or lack; ours have names"
NO_JSON = "vLLM hands on numbers and letters that the standard of JSON lacks"
CALL_ID = "vLLM takes the id for a part of the name"
SPACES = "vLLM takes nothing around a list of calls, and no comma at its end"
DEVIATIONS = {
    "hermes": {
        tagged('{"name": "f", "arguments": "{\\"a\\": 1}"}'): STRING,
        f"<tool_call>\n{J}\n<tool_call>{JW}": "vLLM takes what follows a tag that is not closed for all one call",
        tagged(f"[{J}, {JW}]"): "vLLM takes one object after a tag; ours a list of them, too",
        tagged('{"name": "add", "arguments": [1, 2]}'): NO_OBJECT,
        tagged('{"name": "add", "arguments": {"a": NaN}}'): NO_JSON,
        tagged('{"name": "add", "arguments": {"a": 1e999}}'): NO_JSON,
        tagged('{"name": "add", "arguments": {"a": "\\ud800"}}'): NO_JSON,
    },
    "llama": {
        '{"name": "f", "parameters": "{\\"a\\": 1}"}': STRING,
        '{"name": "add", "parameters": 3}': NO_OBJECT,
    },
    "mistral": {
        f"[TOOL_CALLS][{J}][TOOL_CALLS][{JW}]": "vLLM takes the first list alone",
        f"[TOOL_CALLS]add{AB}, get_weather{CITY}": "vLLM takes the first call alone",
        f"[TOOL_CALLS]add[CALL_ID]a1b2c3d4e[ARGS]{AB}": CALL_ID,
        f"[TOOL_CALLS]add[CALL_ID]a1b2c3d4e[ARGS]{AB}[TOOL_CALLS]get_weather[CALL_ID]b2c3d4e5f[ARGS]{CITY}": CALL_ID,
        "[TOOL_CALLS]add[ARGS]": NO_OBJECT,
        "[TOOL_CALLS]add[ARGS][1, 2]": NO_OBJECT,
        '[TOOL_CALLS]add[ARGS]{"a": 1': UNFINISHED,
        "[TOOL_CALLS]add[ARGS]{'a': 1}": "vLLM hands on what is no JSON",
    },
    "granite": {
        f"<|tool_call|>{J}": "vLLM takes a list; ours an object alone, too",
        f"<|tool_call|>[{J}": UNFINISHED,
        f"<|tool_call|>[{J},]": UNFINISHED,
        '<|tool_call|>[{"name": "add", "arguments": {"a": 1': UNFINISHED,
        '<|tool_call|>[{"name": "add"}]': NO_OBJECT,
    },
    "pythonic": {
        " [add(a=1,b=2)]\n": SPACES,
        "[\n  add(\n    a=1,\n    b=2,\n  ),\n]": SPACES,
        "<|python_tag|>[add(a=1, b=2)]": "vLLM takes no tag before a list of calls",
        "[shop.buy(item='tea')]": "vLLM takes no dots in names",
        "[f(x=1e999)]": NO_JSON,
        "[f(x={1, 2})]": "vLLM makes a list of a set, whose order means nothing",
        "[f(x=" + "-" * 900 + "1)]": "vLLM reads 900 signs before a number",
    },
}
"""Format -> text -> why ours reads another call than vLLM, or the one of the two reads none."""


def alike(before: str, calls: list, found: dict) -> bool:
    """Whether vLLM reads the same calls, or none where ours has none that can be played."""
    try:
        theirs = [(name, json.loads(arguments)) for name, arguments in found["calls"]]
    except ValueError:
        return False
    if BROKEN in calls:
        return not theirs
    same = json.dumps(theirs) == json.dumps(calls)  # for Python, true is 1
    return same and (not theirs or (found["content"] or before).strip() == before.strip())


@pytest.mark.parametrize("name", FORMATS)
def test_calls_are_read_as_vllm_reads_them(name):
    """Where ours has a broken call, vLLM takes the whole for text: it has nobody to tell."""
    assert [found["text"] for found in PEER[name]] == [text for text, _, _ in TEXTS[name]]
    pairs = list(zip(TEXTS[name], PEER[name], strict=True))
    unlike = [text for (text, before, calls), found in pairs if not alike(before, calls, found)]
    assert unlike == [text for text, _, _ in TEXTS[name] if text in DEVIATIONS[name]]
    assert len(unlike) == len(DEVIATIONS[name])
    assert sum(bool(calls) and BROKEN not in calls and text not in unlike for text, _, calls in TEXTS[name]) >= 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<[|"), max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab ", max_size=3), inner, max_size=2),
    max_leaves=5,
)  # fmt: skip
CALL = st.tuples(st.sampled_from(["f", "get_it", "a1"]), st.dictionaries(st.sampled_from("xyz"), JSON, max_size=3))


@pytest.mark.parametrize("name", FORMATS)
@given(calls=st.lists(CALL, min_size=1, max_size=3))
def test_what_is_written_is_read(name, calls):
    assert read(name, FORMATS[name].write(calls)) == ("", calls)


PIECES = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|tool_call|>", "[f(", "x=1"]
PIECES += [
    ")]",
    '{"name": "f"',
    ', "arguments": ',
    "{}",
    "}",
    "[",
    "]",
    '"',
    "\\",
    "(",
    "{",
    "f",
    ";",
    "\ud800",
    "\x00",
]


@pytest.mark.parametrize("name", FORMATS)
@given(text=st.lists(st.sampled_from(PIECES), max_size=20).map("".join) | st.text())
def test_no_text_is_an_error(name, text):
    before, calls = FORMATS[name].read(text)
    assert text.strip().startswith(before.strip())
    for call in calls:
        json.dumps(dict(call.arguments), allow_nan=False, ensure_ascii=False).encode()
        assert bool(call.name) != bool(call.broken)


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_nested_too_deeply_is_broken(name):
    for text in ("[" * 100_000, '{"a":' * 100_000):
        for opening in ("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>{", "<|tool_call|>", "[f(x="):
            assert all(call.broken for call in FORMATS[name].read(opening + text)[1])


def test_the_format_is_known_by_the_template():
    assert format_of("{{ '<tool_call>' }}") == "hermes"
    assert format_of("{{ '<tool_call>f\n<arg_key>k</arg_key>' }}") is None
    assert format_of("<tool_call><function=f>") is None
    assert format_of("{{ message.content }}") is None
