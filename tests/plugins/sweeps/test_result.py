"""What running a sweep gives back: rows, a DataFrame, a readable text and the report."""

import builtins
import math

import pytest
from sweep_help import BASE, LABELS, Launcher, sweep
from uncollapse.api import MissingExtraError, RequestError, SweepResult
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.sweeps.points import Case
from uncollapse.plugins.sweeps.sweep import Sweep


@pytest.fixture
def result(tmp_path):
    """Four points, of which one has failed and one was stopped."""
    return sweep().run(tmp_path / "sweep", Launcher(**{LABELS[1]: "failed", LABELS[2]: "stopped:empty_filter"}))


def test_a_row_for_each_point_with_axes_seed_status_and_final_metrics(result, tmp_path):
    RunDirectory(result.home / LABELS[0]).set_status("success", step=3, metrics={"train/reward": 1.5})
    rows = result.rows()
    assert [row["label"] for row in rows] == LABELS
    assert rows[0] == {
        "label": LABELS[0],
        "filter.select": "nofilter",
        "kl.coef": 0,
        "seed": 0,
        "status": "success",
        "step": 3,
        "path": str(result.home / LABELS[0]),
        "train/reward": 1.5,
        "validation/success": None,
        "validation/success_se": None,
    }
    assert [row["kl.coef"] for row in rows] == [0, 0.01, 0, 0.01]
    assert [row["status"] for row in rows] == ["success", "failed", "stopped:empty_filter", "success"]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert rows[3]["validation/success"] == 0.5


def test_seeds_cases_and_joint_axes_are_columns(tmp_path):
    cases = [Case("plain", {"kl.coef": 0.0}), Case("kl", {"kl.coef": 0.01}, {"status": "with"})]
    axes = {"seed": [3, 4], "entropy_coeff,rollout.max_turns": [[0.1, 2]]}
    made = Sweep(BASE, axes, name="test", cases=cases)
    rows = made.run(tmp_path / "sweep", Launcher()).rows()
    assert [row["seed"] for row in rows] == [3, 4, 3, 4]
    assert [(row.get("case"), row["point.status"], row["status"]) for row in rows] == [
        ("plain", None, "success"),
        ("plain", None, "success"),
        (None, "with", "success"),
        (None, "with", "success"),
    ]
    assert {row["entropy_coeff,rollout.max_turns"] for row in rows} == {"entropy_coeff=0.1, rollout.max_turns=2"}


def test_a_data_frame_has_the_rows_and_can_be_grouped(result):
    frame = result.to_pandas()
    assert list(frame.columns) == list(result.rows()[0])
    assert frame.groupby("kl.coef")["validation/success"].mean().to_dict() == {0.0: 0.5, 0.01: 0.5}
    assert frame["label"].tolist() == LABELS
    RunDirectory(result.home / LABELS[0]).set_status("success", metrics={"train/reward": 1.5})
    missing = result.to_pandas()["validation/success"]
    assert math.isnan(missing[0])
    assert missing[1:].tolist() == [0.5, 0.5, 0.5]


def test_without_pandas_there_are_rows_and_a_message(result, monkeypatch):
    load = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError("no pandas here")
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match="needs the library pandas") as caught:
        result.to_pandas()
    assert caught.value.fix == "pip install pandas"
    assert len(result.rows()) == 4


def test_printing_a_result_shows_a_line_for_each_run(result):
    lines = str(result).splitlines()
    assert lines[0].split("  ")[0] == "run"
    assert len(lines) == 1 + len(LABELS) + 1
    assert "filter.select top_p(0.9), kl.coef 0 " in lines[3]
    assert "empty_filter" in lines[3]
    assert "0.500 ± 0.050" in lines[4]
    assert lines[-1].startswith("4 runs: 2 success, 1 failed")
    assert lines[-1].endswith(str(result.home))
    (result.home / "sweep.yaml").unlink()
    assert str(result).splitlines()[1].split() == [LABELS[0], "success"]
    with pytest.raises(RequestError, match=r"no sweep\.yaml"):
        result.rows()


def test_the_result_of_a_sweep_that_ran_before_is_read_from_its_directory(result):
    again = SweepResult.read(result.home)
    assert again == result
    assert (again.rows(), again.exit_code) == (result.rows(), 1)


def test_a_run_of_another_configuration_in_the_place_of_a_point_gives_it_no_numbers(result):
    run = RunDirectory(result.home / LABELS[0])
    run.set_status("success", hash="another", step=9)
    row = SweepResult.read(result.home).rows()[0]
    assert (row["status"], row["step"], row["validation/success"]) == ("not started", None, None)


def test_the_report_is_the_one_that_the_command_line_writes(result):
    page = result.report()
    assert page == result.home / "report" / "report.html"
    assert "kl.coef" in page.read_text()
    assert (page.parent / "runs.csv").read_text().count("\n") == 5
