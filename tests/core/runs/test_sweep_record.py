"""The record of a sweep: any data that a sweep may hold reads back, by us and by any reader of YAML, however long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core import yaml
from uncollapse.core.runs.sweep_record import dumps, loads

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
POINT = st.fixed_dictionaries({"label": TEXT, "path": TEXT, "hash": TEXT, "values": st.dictionaries(TEXT, TEXT)})


def record(points):
    return {"name": "test", "experiment": {"environment": "sokoban"}, "axes": {"seed": [0, 1]}, "points": points}


@given(st.lists(POINT, min_size=1, max_size=4))
def test_points_read_back(points):
    assert loads(dumps(record(points))) == record(points)


@pytest.mark.parametrize("text", ["top_p(0.9, type=smallest)", "a: b", "{x", "- y", "1e0", "\x85", "\u2028", "é"])
def test_it_is_yaml(text):
    whole = record([{"label": text, "values": {"kl.coef": text}}, {"label": "b", "values": {}}])
    assert yaml.loads(dumps(whole)) == whole


def test_ten_thousand_points_are_more_than_yaml_may_hold_and_read_back():
    points = [{"label": f"kl.coef_{n}", "values": {"kl.coef": str(n)}, "hash": "0" * 16} for n in range(20_000)]
    text = dumps(record(points))
    assert len(text) > yaml.LIMIT
    assert loads(text) == record(points)


@pytest.mark.parametrize("points", ["points:\n  - label: a\n    values: {}\n", "points: [{label: a, values: {}}]\n"])
def test_points_may_be_written_by_hand(points):
    assert loads(f"name: x\n{points}") == {"name": "x", "points": [{"label": "a", "values": {}}]}


def test_one_cut_off_in_a_point_is_damaged():
    text = dumps(record([{"label": "a", "values": {}}, {"label": "b", "values": {"seed": "1"}}]))
    with pytest.raises(yaml.SyntaxProblem):
        loads(text[:-8])


def test_the_part_of_a_person_keeps_its_limit():
    with pytest.raises(yaml.SyntaxProblem, match="is longer than 100 characters"):
        loads(f"name: {'x' * 100}\n{dumps({'points': [{}]}).removeprefix('{}')}", 100)
