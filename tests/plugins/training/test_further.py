"""Runs that are trained further than was planned, and past the verdict of a detector."""

import json
from contextlib import suppress

import pytest
import torch
import uncollapse
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.compose.identity import config_hash
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RequestError
from uncollapse.core.runs import resumption
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.probe.own_run import own_run
from uncollapse.plugins.training.step.learning import Learning
from uncollapse.plugins.training.step.loop import Loop

TRAIN_STEP = Loop.train_step


@pytest.fixture(scope="session")
def base(bandit):
    return bandit


def compose(base, *overrides):
    return uncollapse.compose(base, ["trainer.save_every=1", "advantage=grpo", *overrides])


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A run that has had four steps from the start."""
    return uncollapse.train(compose(base), tmp_path_factory.mktemp("whole") / "run").path


@pytest.fixture
def finished(base, tmp_path):
    """A run of two steps."""
    return uncollapse.train(compose(base, "trainer.steps=2"), tmp_path / "run").path


def records(path):
    return [
        {key: value for key, value in record.items() if not key.startswith("timing_s/")}
        for record in RunDirectory.open(path).metrics()
    ]


def trained(path):
    """Weights and the state of the optimizer of the last checkpoint, by name."""
    from safetensors.torch import load_file

    last = RunDirectory.open(path).latest()
    state = torch.load(last / "optimizer.pt", weights_only=True)["state"]
    moments = {f"{name}/{key}": value for name, values in state.items() for key, value in values.items()}
    return load_file(last / "model" / "model.safetensors") | moments


def assert_same_training(one, other):
    first, second = trained(one), trained(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def failing_at(step, error):
    def train_step(loop):
        if loop.step == step:
            raise error
        return TRAIN_STEP(loop)

    return train_step


def test_a_finished_run_that_is_trained_further_equals_one_that_was_longer_from_the_start(base, whole, finished):
    before = RunDirectory.open(finished).status()
    outcome = uncollapse.train(compose(base), finished, resume=True, steps=4)
    run = RunDirectory.open(finished)
    assert (outcome.status, run.status()["status"], run.status()["step"], run.status()["attempts"]) == (
        "success",
        "success",
        4,
        2,
    )
    assert_same_training(whole, finished)
    assert records(whole) == records(finished)
    assert [path.name for path in run.checkpoints()] == ["step_1", "step_2", "step_3", "step_4"]
    # what was changed, and when
    assert run.read_config()["trainer"]["steps"] == 4
    assert run.status()["hash"] == config_hash(run.read_config()) != before["hash"]
    [attempt] = run.manifest()["attempts"]
    assert attempt["changed"] == {"trainer.steps": {"from": "2", "to": "4"}}
    assert attempt["began"] >= before["ended"][:19]
    log = (finished / "log.txt").read_text()
    assert "resuming with trainer.steps: 2 -> 4" in log
    assert "resuming from step_2" in log


def test_the_last_step_of_the_shorter_run_stays_validated(base, whole, tmp_path):
    uncollapse.train(compose(base, "trainer.steps=3"), tmp_path / "run")
    uncollapse.train(compose(base), tmp_path / "run", resume=True, steps=4)
    assert_same_training(whole, tmp_path / "run")
    validated = [record["step"] for record in records(tmp_path / "run") if "validation/success" in record]
    assert validated == [0, 2, 3, 4]
    without = [
        {key: value for key, value in record.items() if not key.startswith("validation/") or record["step"] != 3}
        for record in records(tmp_path / "run")
    ]
    assert without == records(whole)


@pytest.mark.parametrize(("error", "status"), [(MemoryError("killed"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_run_that_has_not_ended_gets_more_steps_as_well(base, whole, tmp_path, monkeypatch, error, status):
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", failing_at(1, error))
        with suppress(MemoryError):
            uncollapse.train(compose(base, "trainer.steps=2"), tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert (run.status()["status"], run.status()["step"]) == (status, 1)
    assert uncollapse.train(compose(base), run.path, resume=True, steps=4).status == "success"
    assert_same_training(whole, run.path)
    assert records(whole) == records(run.path)
    assert "error" not in run.status()


def test_a_run_that_has_not_ended_gets_fewer_steps_as_long_as_it_has_not_done_them(base, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", failing_at(2, MemoryError("killed")))
        with pytest.raises(MemoryError):
            uncollapse.train(compose(base), tmp_path / "run")
    with pytest.raises(RequestError, match="the run has done 2 steps already, and 2 are asked for"):
        uncollapse.train(compose(base), tmp_path / "run", resume=True, steps=2)
    assert uncollapse.train(compose(base), tmp_path / "run", resume=True, steps=3).status == "success"
    assert [record["step"] for record in records(tmp_path / "run")] == [0, 1, 2, 3]


def test_fewer_steps_than_are_done_and_other_changes_are_refused(base, finished):
    before = {path: path.read_bytes() for path in finished.glob("*.*")}
    with pytest.raises(RequestError, match="the run has done 2 steps already, and 1 are asked for") as caught:
        uncollapse.train(compose(base), finished, resume=True, steps=1)
    assert caught.value.fix == "ask for more than 2 steps, or give another run directory"
    with pytest.raises(RequestError, match=r"seed: 0 there, 1 asked for") as caught:
        uncollapse.train(compose(base, "seed=1"), finished, resume=True, steps=4)
    assert caught.value.fix == "give another run directory"
    with pytest.raises(RequestError, match=r"trainer.steps: 2 there, 4 asked for") as caught:
        uncollapse.train(compose(base), finished, resume=True)
    assert "--resume --steps N (resume=True, steps=N in Python)" in caught.value.fix
    for steps in (0, -1, 2.5, "many"):
        with pytest.raises(CompositionError, match=r"trainer\.steps"):
            uncollapse.train(compose(base), finished, resume=True, steps=steps)
    assert {path: path.read_bytes() for path in finished.glob("*.*")} == before


def test_the_steps_that_a_run_has_done_are_nothing_to_resume(base, finished):
    before = (finished / "status.json").read_bytes()
    assert uncollapse.train(compose(base), finished, resume=True, steps=2).status == "success"
    assert (finished / "status.json").read_bytes() == before


def test_steps_are_those_of_a_new_run_too(base, tmp_path):
    outcome = uncollapse.train(compose(base), tmp_path / "run", steps=1)
    assert RunDirectory.open(outcome.path).read_config()["trainer"]["steps"] == 1
    assert outcome.metrics.keys() >= {"train/reward"}


def test_a_schedule_that_decays_over_all_steps_goes_on_with_the_new_number_and_says_so(base, tmp_path, monkeypatch):
    scales = []
    scale = Learning._lr_scale
    monkeypatch.setattr(Learning, "_lr_scale", lambda self, one: scales.append(scale(self, one)) or scales[-1])
    decaying = ("trainer.lr_schedule=linear", "trainer.steps=2")
    uncollapse.train(compose(base, *decaying), tmp_path / "run")
    uncollapse.train(compose(base, *decaying), tmp_path / "run", resume=True, steps=4)
    assert list(dict.fromkeys(scales)) == [1.0, 0.5, 0.25]  # 2 of 2 steps, then the last two of 4
    assert scales[-1] == 0.25
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "trainer.lr_schedule=linear decays over 4 steps from here on: step 3 has 0.5 of trainer.lr, " in log
    assert "where 2 steps would have given it 0\n" in log
    # what the probe takes for the rate of a step is that of the schedule which it was trained on
    checkpoints = tmp_path / "run" / "checkpoints"
    assert [own_run(checkpoints / f"step_{step}" / "model").steps for step in (1, 2, 3)] == [2, 2, 4]


def test_a_kill_while_the_change_is_written_down_leaves_a_run_that_the_same_request_continues(
    base, whole, finished, monkeypatch
):
    for method in ("set_status", "restore_config", "annotate"):
        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, method, lambda *_, **__: (_ for _ in ()).throw(MemoryError("killed")))
            with pytest.raises(MemoryError):
                uncollapse.train(compose(base), finished, resume=True, steps=4)
    assert uncollapse.train(compose(base), finished, resume=True, steps=4).status == "success"
    assert_same_training(whole, finished)
    assert RunDirectory.open(finished).status()["hash"] == config_hash(compose(base))


# --- past a verdict ---

STOPPING = ("filter.select=top_p(0.9)", "filter.empty_stop_steps=1", "trainer.steps=2")
"""No group of the bandit's has any variance, so that the filter keeps none."""


@pytest.fixture
def stopped(base, tmp_path):
    outcome = uncollapse.train(compose(base, *STOPPING), tmp_path / "run")
    assert (outcome.status, len(records(outcome.path))) == ("stopped:empty_filter", 2)
    return outcome.path


def test_a_stopped_run_stays_stopped_however_many_steps_it_is_given(base, stopped):
    before = [(stopped / name).read_bytes() for name in ("status.json", "config.yaml", "manifest.json")]
    for steps in (None, 9):
        outcome = uncollapse.train(compose(base, *STOPPING), stopped, resume=True, steps=steps)
        assert (outcome.status, outcome.exit_code) == ("stopped:empty_filter", 3)
    assert [(stopped / name).read_bytes() for name in ("status.json", "config.yaml", "manifest.json")] == before
    assert "--resume --overrule (resume=True, overrule=True in Python)" in (stopped / "log.txt").read_text()


def test_a_stopped_run_goes_on_where_its_detector_is_overruled_and_is_not_stopped_by_it_again(base, stopped):
    outcome = uncollapse.train(compose(base, *STOPPING), stopped, resume=True, overrule=True)
    run = RunDirectory.open(stopped)
    assert (outcome.status, [record["step"] for record in records(stopped)]) == ("success", [0, 1, 2])
    assert run.status()["overruled"] == ["empty_filter"]
    assert "verdict" not in run.status()
    assert [verdict["detector"] for verdict in run.status()["verdicts"]] == ["empty_filter"]
    assert run.manifest()["attempts"][0]["overruled"] == ["empty_filter"]
    assert uncollapse.train(compose(base, *STOPPING), stopped, resume=True, steps=3).status == "success"
    assert run.status()["overruled"] == ["empty_filter"]


def test_a_kill_before_the_next_checkpoint_does_not_bring_the_verdict_back(base, stopped, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", failing_at(1, SystemExit(137)))
        patch.setattr("uncollapse.plugins.training.session.Session.keep", lambda session: None)
        with pytest.raises(SystemExit):
            uncollapse.train(compose(base, *STOPPING), stopped, resume=True, steps=4, overrule=True)
    assert RunDirectory.open(stopped).latest().name == "step_1"
    outcome = uncollapse.train(compose(base, *STOPPING), stopped, resume=True, steps=4)
    assert (outcome.status, [record["step"] for record in records(stopped)]) == ("success", [0, 1, 2, 3, 4])


def test_every_detector_that_wanted_to_stop_the_run_is_overruled():
    verdicts = [
        {"detector": "a", "step": 3, "stop": True},
        {"detector": "b", "step": 3, "stop": True},
        {"detector": "c", "step": 1, "stop": False},
    ]
    status = {"status": "stopped:b", "verdict": verdicts[1], "verdicts": verdicts}
    assert resumption._stoppers(status) == ("b", "a")


def test_overruling_is_for_runs_that_are_resumed(base, tmp_path):
    with pytest.raises(RequestError, match="a run that a detector has stopped"):
        uncollapse.train(compose(base), tmp_path / "run", overrule=True)
    assert not (tmp_path / "run").exists()


# --- the command line ---


def test_the_command_line_trains_a_run_further(base, finished, tmp_path):
    file = tmp_path / "experiment.json.yaml"
    file.write_text(json.dumps({**base, "advantage": "grpo"}))
    run = ["train", str(file), "--set", "trainer.save_every=1", "--run-dir", str(finished), "--resume"]
    done = CliRunner().invoke(main, [*run, "--steps", "1"])
    assert done.exit_code == 2, done.output
    assert "the run has done 2 steps already, and 1 are asked for" in str(done.exception) + done.output
    done = CliRunner().invoke(main, [*run, "--steps", "3"])
    assert done.exit_code == 0, done.output
    assert [record["step"] for record in records(finished)] == [0, 1, 2, 3]
    twice = CliRunner().invoke(main, [*run, "--steps", "3", "--set", "trainer.steps=4"])
    assert twice.exit_code == 2
    assert "trainer.steps is given twice: --steps, --set" in str(twice.exception) + twice.output
    without = CliRunner().invoke(main, [*run[:-1], "--overrule"])
    assert without.exit_code == 2
    assert "--overrule is for a run that a detector has stopped" in str(without.exception) + without.output
