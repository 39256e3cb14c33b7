"""What a sweep lays on disk never shares a path, on any file system, and equal values are one point."""

from __future__ import annotations

import pytest
from sweep_help import BASE
from uncollapse.core.errors import RequestError
from uncollapse.plugins.sweeps.layout import Layout
from uncollapse.plugins.sweeps.points import Case
from uncollapse.plugins.sweeps.sweep import Sweep

CASES = [Case("one", {"kl.coef": 0.1}, {"dir": "a"}), Case("two", {"kl.coef": 0.2}, {"dir": "a/checkpoints/step_3"})]


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(run="$dir"), "two lies in the directory of one"),
        (Layout(run="$label", home="one/sweep"), "the sweep lies in the directory of one"),
        (Layout(run="REPORT/../Report"), "the sweep and one have one directory"),
        (Layout(log="two"), "two and the log of one have one path"),
        (Layout(log="all.log"), "the log of one and the log of two have one path"),
        (Layout(checkpoints="saved"), "the checkpoints of one and the checkpoints of two have one path"),
        (Layout(log="$label.x", checkpoints="$label.X"), "the log of one and the checkpoints of one have one path"),
        (Layout(summary="sweep.yaml"), "the sweep and the summary have one path"),
        (Layout(summary="one/metrics.jsonl"), "the summary and a record of one have one path"),
        (Layout(log="$label/status.json"), "the log of one and a record of one have one path"),
    ],
)
def test_nothing_lies_where_something_else_does(tmp_path, layout, message):
    with pytest.raises(RequestError, match=f"^{message}\n"):
        Sweep(BASE, name="test", cases=CASES, layout=layout).prepared(tmp_path)


def test_a_log_in_its_own_run_may_be_called_anything_else(tmp_path):
    layout = Layout(log="$label/log.txt", checkpoints="$label/checkpoints", summary="one/summary.log")
    assert len(Sweep(BASE, name="test", cases=CASES, layout=layout).prepared(tmp_path)) == 2


def test_names_differ_by_more_than_their_case(tmp_path):
    points = Sweep(BASE, {"model.path": ["Some/Model", "some/model", "other"]}, name="test").prepared(tmp_path)
    names = [point.place.run.name for point in points]
    assert len({name.lower() for name in names}) == 3
    assert names[2] == "model.path_other"


@pytest.mark.parametrize("values", [[0.0, -0.0], [0, -0.0], [1, 1.0], [0.001, 1e-3]])
def test_one_value_however_it_is_written_is_one_point(tmp_path, values):
    with pytest.raises(RequestError, match="two points are the same experiment"):
        Sweep(BASE, {"kl.coef": values}, name="test").prepared(tmp_path)
