"""Whatever stands at a key or a parameter: it is taken, or refused with a message that names the key."""

import math
import random
import time
from contextlib import suppress

import attrs
import pytest
from uncollapse.core.components import CollapseDetector
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.converter import make_converter, structure_component
from uncollapse.core.compose.experiment import keys
from uncollapse.core.compose.problems import CompositionError, Invalid
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.core.kinds import KINDS
from uncollapse.core.registry import registry

BASE = {"model": {"path": "/no/model"}, "environment": "countdown"}
LIMIT_S = 2
NEVER = [2**65, 10**400, -(10**400), 1e300, -1e300, 1e-300, math.nan, "\0", "\ud800", b"x", {1: 2}, {"a": {2: 3}}]
"""What no key and no parameter takes."""
NEVER_AN_OBJECT = object()
POOL = [
    *(None, True, False, 0, -1, 1, 2, 3, 10**6, 2**31, 2**32, -(10**9)),
    *(0.0, -0.5, 0.5, 1e-30, 1e30, math.inf, -math.inf),
    *("", "x", "~nobody_at_all", "n" * 5000, "1", "true", "null", "\x1b[31m", "é\u2028", "top_p(0.9)", "(", "[", "{"),
    *("f(" * 500, ",", "=", "/dev/zero", "a, b", "١٢", "2020-01-01"),
    *([], [1], ["x"], [[]], [None], [0.1, 0.2], (1, 2, 3, 4), ["jsonl", "jsonl"], ["x"] * 200),
    *({}, {"x": 1}, {"name": "x"}, {"name": 5}, {"name": None}, {"a": {"b": {"c": 1}}}),
]


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def circle():
    value = {}
    value["again"] = value
    return value


def taken(key, value):
    """Whether an experiment takes the value at the key; a refusal names the key."""
    started, refusal = time.process_time(), ""
    try:
        compose(BASE, {key: value})
    except (CompositionError, RequestError) as error:
        refusal = str(error)
    assert time.process_time() - started < LIMIT_S
    assert not refusal or key.rpartition(".")[2] in refusal, (key, refusal)
    return not refusal


@pytest.mark.parametrize("key", keys())
def test_a_key_takes_a_value_or_refuses_it_by_name(key):
    chosen = random.Random(key)
    for value in chosen.sample(POOL, 6):
        taken(key, value)
    for value in (*chosen.sample(NEVER, 3), NEVER_AN_OBJECT, deep(2000), circle()):
        assert not taken(key, value), value
    assert not taken(f"{key}.no_such_key", chosen.choice(POOL))


def parameters():
    for kind in registry().kinds():
        if not KINDS[kind].is_component:
            continue
        for name in registry().names(kind):
            try:
                described = registry().describe(kind, name).parameters
            except MissingExtraError:
                continue
            required = [parameter.name for parameter in described if parameter.required]
            yield from (pytest.param(kind, name, each, required, id=f"{kind}-{name}-{each.name}") for each in described)


@pytest.mark.parametrize(("kind", "name", "parameter", "required"), parameters())
def test_a_parameter_takes_a_value_or_refuses_it(kind, name, parameter, required):
    converter = make_converter(registry())
    others = dict.fromkeys(required, 1)

    with suppress(Invalid):  # what a package takes to be imported is not counted
        structure_component(converter, registry(), kind, {"name": name, **dict.fromkeys(required, "x")})

    def taken(value):
        started, made, reasons = time.process_time(), None, []
        try:
            made = structure_component(converter, registry(), kind, {"name": name, **others, parameter.name: value})
        except Invalid as error:
            reasons = list(map(str, error.problems))
        assert time.process_time() - started < LIMIT_S
        assert made or all(reasons)
        return made

    for value in random.Random(name + parameter.name).sample(POOL, 20):
        made = taken(value)
        if made is not None and attrs.has(type(made.component)):
            assert made.params == attrs.evolve(made).params
    for value in (10**400, -(10**400), 1e300, -1e300, 1e-300, math.nan, NEVER_AN_OBJECT):
        assert not taken(value), value
    if parameter.type == "int":
        assert not taken(2**32)


COUNTS = sorted(
    key for key, field in keys().items() if field.type == "int" and not key.endswith("seed") and "batch" not in key
)


@pytest.mark.parametrize("key", COUNTS)
def test_a_count_has_a_largest_value(key):
    """Neither memory nor time would end; what is a multiple of everything small is refused for its size alone."""
    with pytest.raises(CompositionError) as refused:
        compose(BASE, {"trainer.mini_batch": 1, "trainer.micro_batch": 1, key: 2**30})
    assert any(problem.key == key for problem in refused.value.problems), str(refused.value)


@attrs.frozen
class Broken(CollapseDetector):
    """A detector with a mistake, which its parameter names."""

    mistake: str = "check"

    def __attrs_post_init__(self):
        if self.mistake == "make":
            raise KeyError("a key")

    @property
    def needs(self):
        return 5 if self.mistake == "needs" else frozenset()

    def check(self, experiment):
        if self.mistake == "check":
            raise RuntimeError("a mistake")
        return ()

    def start(self, context):
        return None


@pytest.mark.parametrize("mistake", ["make", "needs", "check"])
def test_a_component_that_fails_while_it_is_asked_is_named_with_its_plugin(monkeypatch, mistake):
    known = registry()
    entry = attrs.evolve(known.entry("collapse", "empty_filter"), name="broken", target=Broken)
    monkeypatch.setitem(known._entries["collapse"], "broken", entry)
    with pytest.raises(CompositionError) as refused:
        compose(BASE, {"collapse": [{"name": "broken", "mistake": mistake}]})
    (problem,) = refused.value.problems
    assert problem.key.startswith("collapse.")
    assert f"collapse 'broken' of {entry.plugin} failed in" in problem.reason
    assert "test_wrong_values.py:" in problem.reason or mistake == "needs"
