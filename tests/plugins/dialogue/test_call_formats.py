"""Calls are read as model cards and engines define them; whatever else a model writes is never an error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.dialogue.call_formats import FORMATS, format_of

A = ("add", {"a": 1, "b": 2})
W = ("get_weather", {"city": "Bonn"})
J = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
JW = '{"name": "get_weather", "arguments": {"city": "Bonn"}}'
P, PW = J.replace("arguments", "parameters"), JW.replace("arguments", "parameters")
BROKEN = "broken"


def tagged(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


HERMES = [
    (tagged(J), "", [A]),
    (tagged(f"\n{J}\n"), "", [A]),
    (f"I add.\n{tagged(J)}", "I add.\n", [A]),
    (f"{tagged(J)}\n{tagged(JW)}", "", [A, W]),
    (tagged(J) + tagged(JW), "", [A, W]),
    (f"{tagged(J)} and then the weather {tagged(JW)} so", "", [A, W]),
    (f"<tool_call>{J}", "", [A]),
    (f"<tool_call>\n{J}\n<tool_call>{JW}", "", [A, W]),
    (tagged('{"arguments": {"city": "Bonn"}, "name": "get_weather"}'), "", [W]),
    (tagged('{"name": "now", "arguments": {}}'), "", [("now", {})]),
    (
        tagged('{"name": "f", "arguments": {"x": {"y": [1, 2.5, null, true]}}}'),
        "",
        [("f", {"x": {"y": [1, 2.5, None, True]}})],
    ),
    (tagged('{"name": "f", "arguments": {"s": "a \\"b\\" \\n ü"}}'), "", [("f", {"s": 'a "b" \n ü'})]),
    (tagged('{"name": "f", "arguments": "{\\"a\\": 1}"}'), "", [("f", {"a": 1})]),
    (tagged(f"[{J}, {JW}]"), "", [A, W]),
    (tagged('{"name": "f", "arguments": {"s": "}"}}'), "", [("f", {"s": "}"})]),
    ("The answer is 3.", "The answer is 3.", []),
    ("", "", []),
    (J, J, []),
    (tagged('{"name": "add", "arguments": {"a": 1'), "", [BROKEN]),
    (tagged(""), "", [BROKEN]),
    (tagged("add(1, 2)"), "", [BROKEN]),
    (tagged("{'name': 'add', 'arguments': {}}"), "", [BROKEN]),
    (tagged('{"arguments": {}}'), "", [BROKEN]),
    (tagged('{"name": "add"}'), "", [BROKEN]),
    (tagged('{"name": "add", "arguments": [1, 2]}'), "", [BROKEN]),
    (tagged('{"name": "add", "arguments": {"a": NaN}}'), "", [BROKEN]),
    (tagged('{"name": "add", "arguments": {"a": 1e999}}'), "", [BROKEN]),
    (tagged('{"name": "add", "arguments": {"a": "\\ud800"}}'), "", [BROKEN]),
    (tagged("7"), "", [BROKEN]),
    (tagged("{") + tagged(J), "", [BROKEN, A]),
]
LLAMA = [
    (P, "", [A]),
    (J, "", [A]),
    (f" \n{P}\n", " \n", [A]),
    (f"<|python_tag|>{P}", "", [A]),
    (f"<|python_tag|> {P}", "", [A]),
    (f"{P}; {PW}", "", [A, W]),
    (f"{P};{PW}", "", [A, W]),
    (f"{P}\n{PW}", "", [A, W]),
    (f"<|python_tag|>{P}; {PW}", "", [A, W]),
    (f"Here is the call: {P}", "Here is the call: ", [A]),
    (f"{P} That should do.", "", [A]),
    ('{"type": "function", "name": "get_weather", "parameters": {"city": "Bonn"}}', "", [W]),
    (
        '{"name": "f", "parameters": {"x": {"name": "inner", "y": {"z": 1}}}}',
        "",
        [("f", {"x": {"name": "inner", "y": {"z": 1}}})],
    ),
    ('{"name": "f", "parameters": {"s": "a; b {"}}; ' + PW, "", [("f", {"s": "a; b {"}), W]),
    ('{"name": "now", "parameters": {}}', "", [("now", {})]),
    ('{"name": "f", "parameters": "{\\"a\\": 1}"}', "", [("f", {"a": 1})]),
    ("The answer is 3.", "The answer is 3.", []),
    (r"It is $\frac{1}{2}$.", r"It is $\frac{1}{2}$.", []),
    ('{"answer": 3}', '{"answer": 3}', []),
    ("{3}", "{3}", []),
    ("", "", []),
    ('{"name": "add", "parameters": {"a": 1', "", [BROKEN]),
    ('{"name": "add"}', "", [BROKEN]),
    ('{"name": "add", "parameters": 3}', "", [BROKEN]),
    ("<|python_tag|>search.call(query='x')", "", [BROKEN]),
    ('<|python_tag|>{"query": "x"}', "", [BROKEN]),
    (f'{P}; {{"name": "add", "param', "", [A, BROKEN]),
]
MISTRAL = [
    (f"[TOOL_CALLS][{J}]", "", [A]),
    (f"[TOOL_CALLS] [{J}]", "", [A]),
    (f"[TOOL_CALLS][{J}, {JW}]", "", [A, W]),
    (f"[TOOL_CALLS]  [ {J} ,\n{JW} ]  ", "", [A, W]),
    (f"I add. [TOOL_CALLS][{J}]", "I add. ", [A]),
    (f"[TOOL_CALLS][{J}] done", "", [A]),
    (f"[TOOL_CALLS]{J}", "", [A]),
    (f"[TOOL_CALLS][{J}][TOOL_CALLS][{JW}]", "", [A, W]),
    ('[TOOL_CALLS][{"name": "now", "arguments": {}, "id": "a1b2c3d4e"}]', "", [("now", {})]),
    ('[TOOL_CALLS][{"name": "f", "arguments": "{\\"a\\": 1}"}]', "", [("f", {"a": 1})]),
    ('[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}', "", [A]),
    ('[TOOL_CALLS]add[ARGS] {"a": 1, "b": 2}', "", [A]),
    ('[TOOL_CALLS]add{"a": 1, "b": 2}', "", [A]),
    ('[TOOL_CALLS]add[CALL_ID]a1b2c3d4e[ARGS]{"a": 1, "b": 2}', "", [A]),
    ('[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"}', "", [A, W]),
    ('[TOOL_CALLS]add{"a": 1, "b": 2}, get_weather{"city": "Bonn"}', "", [A, W]),
    ('So [TOOL_CALLS]get_weather[ARGS]{"city": "Bonn"}', "So ", [W]),
    ('[TOOL_CALLS]f[ARGS]{"s": "[TOOL]"}', "", [("f", {"s": "[TOOL]"})]),
    ("The answer is [3].", "The answer is [3].", []),
    (f"[{J}]", f"[{J}]", []),
    ("", "", []),
    ("[TOOL_CALLS]", "", [BROKEN]),
    ("[TOOL_CALLS][]", "", [BROKEN]),
    ('[TOOL_CALLS][{"name": "add", "arguments": {"a": 1', "", [BROKEN]),
    ('[TOOL_CALLS]add[ARGS]{"a": 1', "", [BROKEN]),
    ("[TOOL_CALLS]add[ARGS]", "", [BROKEN]),
    ("[TOOL_CALLS][3]", "", [BROKEN]),
    ("[TOOL_CALLS][{'name': 'add', 'arguments': {}}]", "", [BROKEN]),
]
PYTHONIC = [
    ("[add(a=1, b=2)]", "", [A]),
    (" [add(a=1,b=2)]\n", "", [A]),
    ("[add(a=1, b=2), get_weather(city='Bonn')]", "", [A, W]),
    ('[get_weather(city="Bonn")]', "", [W]),
    ("<|python_tag|>[add(a=1, b=2)]", "", [A]),
    ("[\n  add(\n    a=1,\n    b=2,\n  ),\n]", "", [A]),
    ("[now()]", "", [("now", {})]),
    ("[f(x=-1.5)]", "", [("f", {"x": -1.5})]),
    ("[f(x=[1, 'a', None])]", "", [("f", {"x": [1, "a", None]})]),
    ("[f(x={'y': {'z': True}})]", "", [("f", {"x": {"y": {"z": True}}})]),
    ("[f(x=true, y=false, z=null)]", "", [("f", {"x": True, "y": False, "z": None})]),
    ("[f(x=(1, 2))]", "", [("f", {"x": [1, 2]})]),
    (r"[f(s='it\'s \n \d')]", "", [("f", {"s": "it's \n \\d"})]),
    ("[shop.buy(item='tea')]", "", [("shop.buy", {"item": "tea"})]),
    ("[f(s='[g(x=1)]')]", "", [("f", {"s": "[g(x=1)]"})]),
    ("The answer is 3.", "The answer is 3.", []),
    ("[1, 2]", "[1, 2]", []),
    ("[add]", "[add]", []),
    ("I call [add(a=1, b=2)]", "I call [add(a=1, b=2)]", []),
    ("", "", []),
    ("[add(a=1, b=", "", [BROKEN]),
    ("[add(1, 2)]", "", [BROKEN]),
    ("[add(**{'a': 1})]", "", [BROKEN]),
    ("[add(a=1), 3]", "", [("add", {"a": 1}), BROKEN]),
    ("[f(x=__import__('os').system('ls'))]", "", [BROKEN]),
    ("[f(x=1 + 2)]", "", [BROKEN]),
    ("[f(x=y)]", "", [BROKEN]),
    ("[f(x=1e999)]", "", [BROKEN]),
    ("[f(x={1, 2})]", "", [BROKEN]),
    ("[f(x=b'a')]", "", [BROKEN]),
    ("[f()(x=1)]", "", [BROKEN]),
    ("[f" + ".f" * 900 + "(1)]", "", [BROKEN]),
    ("[f(x=" + "-" * 900 + "1)]", "", [BROKEN]),
    ("[f(x=1)] or 2", "", [BROKEN]),
    ("[f(x=" + "(" * 500 + "1" + ")" * 500 + ")]", "", [BROKEN]),
]
GRANITE = [
    (f"<|tool_call|>[{J}]", "", [A]),
    (f"<|tool_call|>[{J}, {JW}]", "", [A, W]),
    (f"<|tool_call|>[{J}]<|/tool_call|>", "", [A]),
    ("3", "3", []),
    ("<|tool_call|>add", "", [BROKEN]),
]
TEXTS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "pythonic": PYTHONIC, "granite": GRANITE}


def read(name: str, text: str):
    before, written = FORMATS[name].read(text)
    return before, [BROKEN if call.broken else (call.name, dict(call.arguments)) for call in written]


@pytest.mark.parametrize(
    ("name", "text", "before", "calls"), [(name, *case) for name, cases in TEXTS.items() for case in cases]
)
def test_calls_are_read(name, text, before, calls):
    assert read(name, text) == (before, calls)


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
