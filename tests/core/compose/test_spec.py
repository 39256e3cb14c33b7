import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.spec import Spec, SpecError, format_value, parse_spec, parse_value, read_spec, split_list
from uncollapse.core.yaml import SyntaxProblem, dumps, loads

names = st.from_regex(r"[a-z_][a-z0-9_+]{0,8}", fullmatch=True)
identifiers = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
specs = st.builds(
    Spec, names, st.lists(values, max_size=3).map(tuple), st.dictionaries(identifiers, values, max_size=3)
)


@pytest.mark.parametrize(
    ("text", "name", "args", "params"),
    [
        ("top_p", "top_p", (), {}),
        (" top_p ( ) ", "top_p", (), {}),
        ("top_p(0.9)", "top_p", (0.9,), {}),
        ("top_p( 0.9 , type = smallest )", "top_p", (0.9,), {"type": "smallest"}),
        ("low_var_kl+", "low_var_kl+", (), {}),
        ("f(1e-6, no, true, null, ~)", "f", (1e-6, "no", True, None, None), {}),
        ("f([a, [1, 2]], x={k: v})", "f", (["a", [1, 2]],), {"x": {"k": "v"}}),
        ("f(bar(1, 2), x=baz(3))", "f", ("bar(1, 2)",), {"x": "baz(3)"}),
        ("f('a, b)', x=\"(\\\"\", y='it''s')", "f", ("a, b)",), {"x": '("', "y": "it's"}),
        ("f(it's, 'a=b')", "f", ("it's", "a=b"), {}),
        ("f(x==1)", "f", (), {"x": "=1"}),
        ("f(2024-01-01)", "f", ("2024-01-01",), {}),
        ("f(__import__('os').system('x'))", "f", ("__import__('os').system('x')",), {}),
    ],
)
def test_parse(text, name, args, params):
    spec = parse_spec(text)
    assert (spec.name, spec.args, spec.params) == (name, args, params)
    assert [type(value) for value in spec.args] == [type(value) for value in args]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be the name"),
        ("1f", "cannot be the name"),
        ("a b", "cannot be the name"),
        ("f(", "do not close"),
        ("f(1) x", "do not close"),
        ("f(1))", "closes nothing"),
        ("f(1,)", "is empty"),
        ("f(,)", "is empty"),
        ("f([1)", "is missing"),
        ("f('a)", "is missing"),
        ("f(a=1, 2)", "follows a named one"),
        ("f(a=1, a=2)", "a is given twice"),
        ("f(@x)", "not a YAML value"),
    ],
)
def test_refuse(text, reason):
    with pytest.raises(SpecError, match=reason):
        parse_spec(text)


@given(specs)
def test_printed_spec_reads_back(spec):
    again = parse_spec(str(spec))
    assert again == spec
    assert repr(again) == repr(spec)  # 1, 1.0 and True are equal, and different


@given(st.lists(specs, max_size=3))
def test_printed_list_reads_back(items):
    assert [parse_spec(item) for item in split_list(", ".join(map(str, items)))] == items


@given(values)
def test_printed_value_reads_back(value):
    assert repr(parse_value(format_value(value))) == repr(value)


def test_plain_values_are_printed_plainly():
    assert str(Spec("top_p", (0.9,), {"type": "smallest", "k": 1e-6})) == "top_p(0.9, type=smallest, k=1e-06)"
    assert format_value([True, None, "no", "true", "1", "a b", "org/model", math.inf]) == (
        '[true, null, no, "true", "1", "a b", org/model, .inf]'
    )


def test_lists_split_outside_brackets_and_quotes():
    assert split_list("nofilter, top_p(0.9, type=smallest)") == ["nofilter", "top_p(0.9, type=smallest)"]
    assert split_list("a([1, 2], 'x, y'),b") == ["a([1, 2], 'x, y')", "b"]
    assert split_list(" ") == []


def test_mapping_spells_a_component():
    assert read_spec({"name": "top_p", "value": 0.9}) == Spec("top_p", params={"value": 0.9})
    for wrong in ({"value": 0.9}, {"name": 3}, 3, None, ["top_p"]):
        with pytest.raises(SpecError):
            read_spec(wrong)


# --- YAML -----------------------------------------------------------------------------------------------------------


def test_yaml_is_1_2():
    assert loads("[no, on, 1e-6, 1E3, 0o17, 2024-01-01, 12:30, true, ~]") == (
        ["no", "on", 1e-6, 1000.0, 15, "2024-01-01", "12:30", True, None]
    )


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("[top_p(0.9, type=smallest), nofilter]", "top_p(0.9, type=smallest)"),
        ("[nofilter, f(1, g(2, 3), 4)]", "f(1, g(2, 3), 4)"),
        ("{select: top_p(0.9, 2), metric: x}", "top_p(0.9, 2)"),
        ("{x: [a, f(1,no)]}", "f(1, no)"),
    ],
)
def test_a_component_that_commas_cut_is_refused_with_what_to_do(text, cut):
    with pytest.raises(SyntaxProblem) as caught:
        loads(f"a: 1\nb: {text}")
    assert (caught.value.reason, caught.value.line) == (f"the commas in {cut} cut it into pieces: put it in quotes", 2)
    assert loads("['top_p(0.9, type=smallest)', nofilter]") == ["top_p(0.9, type=smallest)", "nofilter"]
    assert loads("- top_p(0.9, type=smallest)\n- nofilter") == ["top_p(0.9, type=smallest)", "nofilter"]
    assert loads("select: top_p(0.9, 2)") == {"select": "top_p(0.9, 2)"}


def test_what_never_closes_is_left_alone():
    assert loads("[f(1, 2]") == ["f(1", 2]
    assert loads("{a: f(1, b: 2}") == {"a": "f(1", "b": 2}
    assert loads("['f(1', 'b)']") == ["f(1", "b)"]
    assert loads("[1 (one, 2)]") == ["1 (one", "2)"]
    assert loads(dumps(["f(1", "b)", "f(1, 2)"])) == ["f(1", "b)", "f(1, 2)"]
    many = "[" + "f(, " * 20_000 + "x]"
    assert len(loads(many)) == 20_001


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, 'duplicate key "c"'),
        ("a: [1,\n", 2, "did not find|expected"),
        ("a:\n\t- b", 2, "character"),
        ("a: *x", 1, "undefined alias"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: !!python/object/apply:os.system [x]", 1, "constructor"),
    ],
)
def test_yaml_mistakes_have_a_line(text, line, reason):
    with pytest.raises(SyntaxProblem, match=reason) as caught:
        loads(text)
    assert caught.value.line == line


@given(st.dictionaries(st.text(), values, max_size=4))
def test_dumped_yaml_reads_back(data):
    assert repr(loads(dumps(data))) == repr(data)


def test_components_take_one_line():
    data = {"filter": {"select": {"name": "top_p", "value": 0.9}, "n": 1}, "size": [1, 2]}
    assert dumps(data) == "filter:\n  select: {name: top_p, value: 0.9}\n  n: 1\nsize: [1, 2]\n"


@pytest.mark.parametrize(("text", "number"), [(".9e0", 0.9), ("-.5e3", -500.0), ("+.5E2", 50.0), (".5e-3", 5e-4)])
def test_a_fraction_without_its_zero_may_have_an_exponent(text, number):
    assert loads(f"a: {text}") == {"a": number}
    assert loads(dumps({"a": text})) == {"a": text}
    assert loads(format_value(text)) == text
