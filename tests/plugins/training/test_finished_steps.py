"""What ends a run costs the step that it comes in: those that were finished before are kept, and the run goes on."""

import json
import os
import signal

import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.errors import RunError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.evaluate import evaluate
from uncollapse.plugins.training.step import learning, stages
from uncollapse.plugins.training.step.detectors import Detectors
from uncollapse.plugins.training.step.loop import Loop
from uncollapse.plugins.training.step.sampling import Sampler

SMALL = (
    "rollout.groups=2",
    "validation.groups=2",
    "trainer.steps=3",
    "advantage=grpo",
    "kl={coef: 0.01, controller: adaptive}",
)


@pytest.fixture(scope="module")
def experiment(bandit):
    return uncollapse.compose(bandit, (*SMALL, "collapse=[entropy_collapse, low_validation_success(patience=9)]"))


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    return content(uncollapse.train(experiment, tmp_path_factory.mktemp("whole") / "run").path)


def content(path):
    run = RunDirectory.open(path)
    metrics = [{k: v for k, v in record.items() if not k.startswith("timing_s/")} for record in run.metrics()]
    state = json.loads((run.latest() / "state.json").read_text())
    optimizer = torch.load(run.latest() / "optimizer.pt", weights_only=True)["state"]
    moments = {name: values["exp_avg_sq"].tolist() for name, values in optimizer.items()}
    weights = (run.latest() / "model" / "model.safetensors").read_bytes()
    detectors = (state["detectors"], state["verdicts"], state["kl_controller"])
    return run.status()["status"], metrics, run.latest().name, detectors, moments, weights


def raising(original, fails):
    def call(*arguments, **options):
        if fails(*arguments):
            raise ValueError("broken")
        return original(*arguments, **options)

    return call


class Times:
    """True at the n-th call."""

    def __init__(self, n):
        self.left = n

    def __call__(self, *_):
        self.left -= 1
        return self.left == 0


PLACES = {
    "rollout": (Sampler, "train", 3, "step_2"),
    "filter": (stages, "select", 3, "step_2"),
    "detector that measures": (Detectors, "measure", 3, "step_2"),
    "advantage": (stages, "advantages", 3, "step_2"),
    "loss": (learning, "PolicyObjective", 3, "step_2"),
    "validation": (Sampler, "validate", 2, "step_2"),
    "detector that judges": (Detectors, "judge", 2, "step_2"),
    "transcript": (RunDirectory, "write_rollouts", 2, "step_2"),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_error_keeps_the_steps_before_it(experiment, whole, tmp_path, monkeypatch, place):
    """With ``save_every: -1``; a step whose weights are trained is one of them, whatever is left to be done of it."""
    owner, name, call, kept = PLACES[place]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, raising(getattr(owner, name), Times(call)))
        with pytest.raises(ValueError, match="broken"):
            uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert (run.status()["status"], run.status()["error"]) == ("failed", "broken")
    assert [path.name for path in run.checkpoints()] == [kept]
    assert f"the checkpoint of {kept.replace('_', ' ')} is written" in (run.path / "log.txt").read_text()
    assert uncollapse.train(experiment, run.path, resume=True).status == "success"
    assert content(run.path) == whole


def test_no_checkpoint_is_written_of_weights_between_two_steps(bandit, tmp_path, monkeypatch, capsys):
    experiment = uncollapse.compose(bandit, (*SMALL, "trainer.mini_batch=2", "trainer.save_every=1"))
    backend = uncollapse.plugins.training.deepspeed_backend.DeepSpeedEngine
    monkeypatch.setattr(backend, "update", raising(backend.update, Times(4)))  # the second of two in step 2
    with pytest.raises(ValueError, match="broken"):
        uncollapse.train(experiment, tmp_path / "run")
    assert [path.name for path in RunDirectory.open(tmp_path / "run").checkpoints()] == ["step_1"]
    assert (
        "the error came within the update of step 2: what was trained since step_1 is lost" in capsys.readouterr().err
    )


def test_an_error_in_the_middle_of_a_pass_leaves_partitioned_weights_whole(bandit, tmp_path, monkeypatch):
    from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

    experiment = uncollapse.compose(bandit, (*SMALL, "trainer.zero_stage=3"))
    forward, steps = Qwen2MLP.forward, []

    def broken(layer, hidden):
        if steps == [0, 1, 2] and torch.is_grad_enabled():
            raise ValueError("broken")
        return forward(layer, hidden)

    train_step = Loop.train_step
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", lambda loop: steps.append(loop.step) or train_step(loop))
        patch.setattr(Qwen2MLP, "forward", broken)
        with pytest.raises(ValueError, match="broken"):
            uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest().name == "step_2"
    uncollapse.train(experiment, run.path, resume=True)
    assert content(run.path) == content(uncollapse.train(experiment, tmp_path / "whole").path)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_gradient_that_is_not_finite_changes_no_weight(bandit, tmp_path, monkeypatch, stage, dtype):
    settings = (f"trainer.zero_stage={stage}", f"model.dtype={dtype}")
    experiment = uncollapse.compose(bandit, (*SMALL, *settings))
    spoilt, calls = stages.advantages, Times(3)

    def infinite(*arguments):
        result = spoilt(*arguments)
        return attrs.evolve(result, advantages=result.advantages + float("inf")) if calls() else result

    with monkeypatch.context() as patch:
        patch.setattr(stages, "advantages", infinite)
        with pytest.raises(RunError, match="the gradient is not finite"):
            uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest().name == "step_2"
    uncollapse.train(experiment, run.path, resume=True)
    whole = uncollapse.train(experiment, tmp_path / "whole").path
    assert content(run.path) == content(whole)


def test_an_interruption_in_the_middle_of_a_step_keeps_those_before(experiment, whole, tmp_path, monkeypatch, capsys):
    def interrupted(sampler, step):
        if step == 1:
            raise KeyboardInterrupt
        return train(sampler, step)

    train = Sampler.train
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "train", interrupted)
        outcome = uncollapse.train(experiment, tmp_path / "run")
    assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
    assert RunDirectory.open(outcome.path).latest().name == "step_1"
    assert "the same command with --resume (resume=True in Python) goes on" in capsys.readouterr().err
    uncollapse.train(experiment, outcome.path, resume=True)
    assert content(outcome.path) == whole


# --- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_what_ends_a_process_lets_it_finish_its_step(bandit, tmp_path, monkeypatch, number):
    """Also where it is sent again and again, as a limit of processor time is."""

    def signalled(current):
        for _ in range(1 if number == signal.SIGTERM else 2):
            os.kill(os.getpid(), number)
        return train_step(current)

    train_step = Loop.train_step
    monkeypatch.setattr(Loop, "train_step", signalled)
    monkeypatch.setattr("uncollapse.plugins.training.processes.stop.SAME_REQUEST_S", 0.0)
    outcome = uncollapse.train(uncollapse.compose(bandit, SMALL), tmp_path / "run")
    run = RunDirectory.open(outcome.path)
    assert (outcome.status, run.status()["status"]) == ("interrupted", "interrupted")
    assert (run.latest().name, run.metrics()[-1]["step"]) == ("step_1", 1)


def test_a_closed_terminal_is_none_of_a_process_that_was_told_to_ignore_it():
    from uncollapse.plugins.training.processes.stop import listened_to

    assert signal.SIGHUP in listened_to()
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        assert signal.SIGHUP not in listened_to()
    finally:
        signal.signal(signal.SIGHUP, previous)


# --- trackers -------------------------------------------------------------------------------------------------------

TRACKER = """
import time

import attrs
from uncollapse.core.components import Tracker
from uncollapse.core.hookspecs import hookimpl


@attrs.frozen
class Down(Tracker):
    error: str = "OSError"

    def start(self, run):
        return Session(self.error)


class Session:
    def __init__(self, error):
        self.error, self.seen = error, []

    @hookimpl
    def step_finished(self, run, step):
        self.seen.append(step)
        (run.path / "seen").write_text(str(self.seen))
        if step in (1, 2):
            raise {"OSError": OSError("no answer"), "SystemExit": SystemExit(5)}[self.error]


@attrs.frozen
class Slow(Tracker):
    def start(self, run):
        return Sleeper()


class Sleeper:
    @hookimpl
    def step_finished(self, step):
        time.sleep(0.3 if step == 1 else 0)


@attrs.frozen
class Tidy(Tracker):
    # it forgets what it has passed on

    def start(self, run):
        return Eraser()


class Eraser:
    @hookimpl
    def validation_finished(self, metrics):
        metrics.clear()

    @hookimpl
    def step_finished(self, metrics):
        metrics.clear()


@hookimpl
def register_trackers(register):
    register("down", Down)
    register("tidy", Tidy)
    register("slow", Slow)
"""


@pytest.fixture(scope="module", autouse=True)
def tracker(tmp_path_factory):
    file = tmp_path_factory.mktemp("plugin") / "down.py"
    file.write_text(TRACKER)
    registry().load_file(file)


@pytest.mark.parametrize("error", ["OSError", "SystemExit"])
def test_a_tracker_that_fails_is_said_once_and_called_again(bandit, tmp_path, capsys, error):
    experiment = uncollapse.compose(bandit, (*SMALL, f"trackers=[down(error={error})]"))
    assert uncollapse.train(experiment, tmp_path / "run").status == "success"
    run = RunDirectory.open(tmp_path / "run")
    assert [record["step"] for record in run.metrics()] == [0, 1, 2, 3]
    assert (run.path / "seen").read_text() == "[0, 1, 2, 3]"
    assert capsys.readouterr().err.count("warning: the tracker down failed in step_finished") == 1
    log = (run.path / "log.txt").read_text()
    assert log.count("warning: the tracker down failed") == log.count("the tracker down failed 2 times") == 1


def test_what_a_tracker_changes_in_its_metrics_is_not_in_the_record(bandit, tmp_path):
    records = {}
    for name in ("jsonl", "tidy"):
        uncollapse.train(uncollapse.compose(bandit, (*SMALL, f"trackers=[{name}]")), tmp_path / name)
        records[name] = content(tmp_path / name)
    assert records["tidy"] == records["jsonl"]
    assert "actor/entropy" in RunDirectory.open(tmp_path / "tidy").status()["metrics"]


def test_the_time_of_trackers_and_hooks_is_in_the_record_of_the_next_step(bandit, tmp_path):
    uncollapse.train(uncollapse.compose(bandit, (*SMALL, "trackers=[slow]")), tmp_path / "run")
    seconds = [record.get("timing_s/hooks") for record in RunDirectory.open(tmp_path / "run").metrics()]
    assert seconds[0] is None
    assert seconds[2] >= 0.3 > max(seconds[1], seconds[3])


def test_a_strict_tracker_ends_the_run_and_keeps_its_step(bandit, tmp_path):
    experiment = uncollapse.compose(bandit, (*SMALL, "trackers=[down]", "strict_trackers=true"))
    with pytest.raises(RunError, match=r"Session \(tracker 2\) failed in step_finished: OSError: no answer"):
        uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert (run.status()["status"], run.latest().name) == ("failed", "step_1")
    assert [record["step"] for record in run.metrics()] == [0, 1]


# --- finished runs --------------------------------------------------------------------------------------------------


def test_a_damaged_record_of_a_finished_run_is_restored_and_nothing_is_trained(experiment, whole, tmp_path, capsys):
    path = uncollapse.train(experiment, tmp_path / "run").path
    run = RunDirectory.open(path)
    for spoil in (lambda data: data[:-40], lambda data: data.replace(b'{"step": 2', b'{"st: 2')):
        run.metrics_file.write_bytes(spoil(run.metrics_file.read_bytes()))
        with pytest.raises(RunError, match="restored from step_3"):
            run.metrics()
        before = (run.latest() / "state.json").stat().st_mtime_ns
        assert uncollapse.train(experiment, path, resume=True).status == "success"
        said = capsys.readouterr().err
        assert "the records were restored from step_3" in said and "nothing to resume" in said
        assert (run.latest() / "state.json").stat().st_mtime_ns == before
        assert content(path) == whole
    run.status_file.write_text("5")
    run.config_file.write_text("")
    with pytest.raises(uncollapse.core.errors.RequestError, match="configuration is damaged: it is empty"):
        uncollapse.train(experiment, path, resume=True)
    run.restore_config(uncollapse.core.compose.config.to_dict(experiment))
    assert uncollapse.train(experiment, path, resume=True).status == "success"
    assert content(path) == whole
    assert evaluate(path)["validation/success"] == whole[1][-1]["validation/success"]
