import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.compose.config import compose, to_dict
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory, build_manifest
from uncollapse.plugins.collapse.replay import Outcome, find_runs, replay_all, score

OUTCOME = Outcome("validation/success", "<", 0.2)
BASE = {"environment": "sokoban", "model": {"path": "some/model"}, "filter": {"empty_stop_steps": 3}}


def make_run(path, **metrics):
    """A finished run; the n-th value of each metric belongs to step n, None was not logged."""
    experiment = compose(BASE)
    run = RunDirectory.create(path, to_dict(experiment), build_manifest(experiment, registry()))
    for step in range(max(map(len, metrics.values()))):
        named = {key.replace("__", "/"): values[step] for key, values in metrics.items() if step < len(values)}
        run.append_metrics(step, named)
    run.set_status("success")
    return run


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "healthy", actor__entropy=[9, 2, 2, 1, 1, 1, 1], validation__success=[0.4, 0.4, 0.5, 0.6])
    make_run(tmp_path / "caught", actor__entropy=[9, 2, 2, 0, 0, 0, 0], validation__success=[0.4] * 6 + [0.0])
    make_run(tmp_path / "missed", actor__entropy=[9, 2, 2, 1, 1, 1, 1], validation__success=[0.4, 0.1, 0.3, 0.1, 0.0])
    make_run(tmp_path / "alarm", actor__entropy=[9, 2, 2, 0, 0, 0, 0], validation__success=[0.4, 0.0, 0.4])
    return tmp_path


def names(runs):
    return [runs / name for name in ("healthy", "caught", "missed", "alarm")]


def test_by_hand(runs):
    found = replay_all(find_runs(names(runs)), ["entropy_collapse"], Outcome.read("validation/success < 0.2"))
    spoke = {item.run.name: item.verdict.step if item.verdict else None for item in found}
    assert spoke == {"healthy": None, "caught": 5, "missed": None, "alarm": 5}
    assert {item.run.name: item.collapsed_at for item in found} == {
        "healthy": None,
        "caught": 6,
        "missed": 3,
        "alarm": None,
    }
    (line,) = score(found)
    assert (line.runs, line.collapsed, line.caught, line.false_alarms) == (4, 2, 1, 1)
    assert (line.precision, line.recall, line.median_lead) == (0.5, 0.5, 1)


def test_what_it_says_is_what_a_live_session_would_have_said(runs):
    make_run(runs / "empty", rollout__filter_kept_count=[0, 0, 0, 4, 0, 0, 0])
    (item,) = replay_all(find_runs([runs / "empty"]), ["empty_filter"], None)
    assert item.verdict.step == 6  # three in a row, from the run's own configuration; step 0 is no training step


def test_a_sweep_stands_for_its_runs(runs):
    points = [{"label": "a", "path": "healthy"}, {"label": "b", "path": "caught"}, {"label": "c", "path": "absent"}]
    (runs / "sweep.yaml").write_text(json.dumps({"points": points}))
    assert [run.path.name for run in find_runs([runs, runs / "alarm"])] == ["healthy", "caught", "alarm"]


def test_a_detector_that_never_spoke_has_no_precision(runs):
    (line,) = score(replay_all(find_runs([runs / "healthy"]), ["kl_runaway"], Outcome.read("validation/success<0")))
    assert (line.precision, line.recall, line.median_lead, line.false_alarms) == (None, None, None, 0)


def test_a_run_or_a_detector_that_is_named_again_counts_once(runs):
    (runs / "sweep.yaml").write_text(json.dumps({"points": [{"label": "healthy"}, {"label": "caught"}]}))
    twice = [runs, runs / "caught", runs / "caught" / ".." / "caught", runs / "alarm"]
    found = replay_all(find_runs(twice), ["entropy_collapse"] * 2, Outcome.read("validation/success<0.2"))
    assert [item.run.name for item in found] == ["healthy", "caught", "alarm"]
    (line,) = score(found)
    assert (line.runs, line.collapsed, line.caught, line.false_alarms) == (3, 1, 1, 1)


def test_a_detector_without_its_metrics_is_not_said_to_have_been_silent(runs):
    make_run(runs / "other", validation__success=[0.4, 0.0], actor__kl=[1.0, 1.0])
    found = replay_all(find_runs([runs / "other"]), ["entropy_collapse", "kl_runaway"], OUTCOME)
    assert [item.unlogged for item in found] == [("actor/entropy",), ()]
    blind, sighted = score(found)
    assert (blind.runs, blind.collapsed, blind.recall) == (0, 0, None)
    assert (sighted.runs, sighted.collapsed, sighted.recall) == (1, 1, 0.0)
    answer = detect(runs / "other", "--detector", "entropy_collapse")
    assert answer.stdout.splitlines()[-1].endswith("it cannot judge: the run never logged actor/entropy")


def test_signs_and_templates_are_found_in_what_a_run_has_logged(runs):
    norms = [None, *[1.0] * 10, None, 9.0, 9.0, 9.0]
    told = [None, 0.6, *[None] * 3, 0.6, *[None] * 4, 0.0, None, 0.0, None, 0.0]
    make_run(
        runs / "logged",
        actor__grad_norm=norms,
        train__response_length=[None, *[30.0] * 5, *[80.0] * 9],
        train__turns=[None, *[3.0] * 5, *[4.0] * 9],
        collapse__first_turn_valid_rate=[None, *[1.0] * 14],
        collapse_first_turn_sample__retrieval_above_chance=told,
        collapse_first_turn_sample__retrieval_above_chance_se=[None if value is None else 0.1 for value in told],
    )
    spellings = ["gradient_spike", "length_drift", "length_drift(max_ratio=1.9)", "template_collapse"]
    found = replay_all(find_runs([runs / "logged"]), spellings, None)
    spoke = {item.detector: item.verdict and item.verdict.step for item in found}
    assert spoke == dict(zip(spellings, [14, None, 10, 14], strict=True))
    answer = detect(runs / "healthy", "--detector", "template_collapse")
    assert "it cannot judge: the run never logged collapse/first_turn_valid_rate" in answer.stdout


@pytest.mark.parametrize(
    ("number", "value"), [(".2", 0.2), ("2.", 2.0), ("+2e-1", 0.2), ("2E+1", 20.0), ("-.5e1", -5.0)]
)
def test_numbers_of_conditions(number, value):
    assert Outcome.read(f"validation/success <= {number}") == Outcome("validation/success", "<=", value)


@pytest.mark.parametrize("text", ["validation/success", "validation/success<high", "<0.1", "a==1", "a<.", "a<1e"])
def test_conditions_that_cannot_be_read(text):
    with pytest.raises(RequestError, match="is no condition"):
        Outcome.read(text)


def test_a_metric_that_was_never_logged(runs):
    with pytest.raises(RequestError, match="never logged validation/sucess"):
        replay_all(find_runs([runs / "healthy"]), ["kl_runaway"], Outcome.read("validation/sucess<0.1"))


def detect(*words):
    return CliRunner().invoke(main, ["detect", *map(str, words)])


def test_command(runs):
    words = [*names(runs), "--detector", "entropy_collapse", "--outcome", "validation/success<0.2"]
    answer = detect(*words)
    assert answer.exit_code == 0, answer.output
    lines = [line.split() for line in answer.output.splitlines()]
    assert lines[2][:6] == [str(runs / "caught"), "entropy_collapse", "5", "6", "6", "1"]
    assert lines[-1] == ["entropy_collapse", "4", "2", "1", "1", "0.50", "0.50", "1"]
    plain = json.loads(detect(*words, "--json").output)
    assert plain["detectors"][0]["false_alarms"] == 1
    assert plain["runs"][1]["verdict"]["step"] == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["healthy", "--detector", "entropy_colapse"], "did you mean 'entropy_collapse'"),
        (["healthy", "--detector", "entropy_collapse(ratio=2)"], "ratio"),
        (["absent", "--detector", "kl_runaway"], "no run directory"),
        (["healthy"], "--detector"),
    ],
)
def test_wrong_requests(runs, monkeypatch, words, message):
    monkeypatch.chdir(runs)
    answer = detect(*words)
    assert answer.exit_code == 2, answer.output
    assert message in answer.output
    assert Path("healthy").exists()


def test_runs_that_cannot_be_judged_are_left_out_and_named(runs):
    experiment = compose(BASE)
    RunDirectory.create(runs / "untrained", to_dict(experiment), build_manifest(experiment, registry()))
    words = [runs / "untrained", runs / "caught", "--detector", "entropy_collapse"]
    answer = detect(*words, "--outcome", "validation/success<0.2")
    assert answer.exit_code == 0, answer.output
    assert f"left out: {runs / 'untrained'}: it has no metrics" in answer.stderr
    assert answer.stdout.splitlines()[-1].split()[:3] == ["entropy_collapse", "1", "1"]
    misspelled = detect(runs / "caught", "--detector", "entropy_collapse", "--outcome", "validation/sucess<1")
    assert "never logged validation/sucess (did you mean 'validation/success'?)" in misspelled.stderr
    alone = detect(*words[:1], "--detector", "entropy_collapse")
    assert (alone.exit_code, "no run to judge" in alone.output) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["healthy", "--detector", "mutual_information"], "a finished run has only metrics"),
        (["healthy", "--detector", "kl_runaway", "--outcome", "x<1.2.3"], "is no condition"),
        (["healthy", "--detector", "kl_runaway", "--outcome", ""], "is no condition"),
        (["cut", "--detector", "kl_runaway"], "record of the sweep is damaged"),
    ],
)
def test_more_wrong_requests(runs, monkeypatch, words, message):
    monkeypatch.chdir(runs)
    (runs / "cut").mkdir()
    (runs / "cut" / "sweep.yaml").write_text("points: [{label")
    answer = detect(*words)
    assert answer.exit_code == 2, answer.output
    assert message in answer.output
