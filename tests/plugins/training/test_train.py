"""Runs of a tiny model, in process: what is computed, what is loaded, what is left on disk."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse.core import files
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.runs import directory as runs
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.evaluate import evaluate
from uncollapse.plugins.training.networks import models, packing
from uncollapse.plugins.training.weights import checkpoint


@pytest.fixture(scope="session")
def base(bandit):
    return bandit


def compose(base, *overrides):
    return uncollapse.compose(base, overrides)


def weights(path, part="model"):
    from safetensors.torch import load_file

    name = "adapter_model.safetensors" if (path / part / "adapter_model.safetensors").exists() else "model.safetensors"
    return load_file(path / part / name)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_times(records):
    return [{key: value for key, value in record.items() if not key.startswith("timing_s/")} for record in records]


RESUMED = {
    "ppo with an adaptive KL": (
        "kl={coef: 0.01, placement: reward, controller: adaptive}",
        "trainer.lr_schedule=cosine",
    ),
    "grpo, ZeRO 2, two epochs": (
        "advantage=grpo",
        "trainer.zero_stage=2",
        "trainer.epochs=2",
        "filter.select=top_f(0.5)",
    ),
    "LoRA with its dropout": ("model.lora={rank: 4, dropout: 0.1}", "kl.coef=0.01"),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_run_equals_the_uninterrupted_one_bitwise(base, tmp_path, name, monkeypatch):
    experiment = compose(base, "trainer.save_every=2", *RESUMED[name])
    whole = uncollapse.train(experiment, tmp_path / "whole")
    # the second run is killed in step 3, after the checkpoint of step 2
    run_step = uncollapse.plugins.training.step.loop.Loop.train_step

    def killed(loop):
        if loop.step == 2:
            raise MemoryError("killed")
        return run_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(uncollapse.plugins.training.step.loop.Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(experiment, tmp_path / "parts")
    assert RunDirectory.open(tmp_path / "parts").status()["status"] == "failed"
    resumed = uncollapse.train(experiment, tmp_path / "parts", resume=True)
    assert whole.status == resumed.status == "success"
    runs = [RunDirectory.open(tmp_path / part) for part in ("whole", "parts")]
    assert without_times(runs[0].metrics()) == without_times(runs[1].metrics())
    last = [run.latest() for run in runs]
    assert [path.name for path in last] == ["step_4", "step_4"]
    assert same(*(weights(path) for path in last))
    if "ppo" in name:
        assert same(*(weights(path, "critic") for path in last))
    states = [torch.load(path / "optimizer.pt", weights_only=True) for path in last]
    assert states[0].keys() == {"state", "param_groups", "master"}
    assert all(same(states[0]["state"][key], states[1]["state"][key]) for key in states[0]["state"])
    start = weights(Path(base["model"]["path"]).parent, Path(base["model"]["path"]).name)
    assert "LoRA" in name or not same(start, weights(last[0]))


def test_checkpoint_is_a_hugging_face_model_with_a_named_optimizer_state(base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    outcome = uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    saved = outcome.path / "checkpoints" / "step_1"
    model = AutoModelForCausalLM.from_pretrained(saved / "model")
    assert AutoTokenizer.from_pretrained(saved / "model").chat_template
    state = torch.load(saved / "optimizer.pt", weights_only=True)
    assert set(state["state"]) == dict(model.named_parameters()).keys()
    assert state["param_groups"][0]["lr"] == 1e-3
    assert all(set(values) == {"step", "exp_avg", "exp_avg_sq"} for values in state["state"].values())
    assert {int(values["step"]) for values in state["state"].values()} == {2}
    assert (saved / "critic" / "optimizer.pt").exists()


def test_the_reference_is_not_even_loaded_without_a_kl_term(base, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the reference was loaded")

    monkeypatch.setattr(assemble, "load_reference", refuse)
    outcome = uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    assert "actor/kl" not in outcome.metrics
    assert "timing_s/reference" not in outcome.metrics
    with pytest.raises(AssertionError):
        uncollapse.train(compose(base, "kl.coef=0.1"), tmp_path / "with")


def test_the_critic_is_not_loaded_without_values(base, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "load_critic", None)
    outcome = uncollapse.train(compose(base, "trainer.steps=1", "advantage=rloo"), tmp_path / "run")
    assert outcome.status == "success"
    assert not (outcome.path / "checkpoints" / "step_1" / "critic").exists()


def test_an_empty_filter_stops_the_run_but_validates_and_saves(base, tmp_path):
    experiment = compose(
        base, "filter.select=top_p(0.9)", "filter.empty_stop_steps=3", "trainer.steps=9", "trainer.save_every=1"
    )
    outcome = uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(outcome.path)
    assert outcome.status == run.status()["status"] == "stopped:empty_filter"
    assert outcome.exit_code == 3
    assert [record["step"] for record in run.metrics() if "validation/success" in record] == [0, 2]
    assert [path.name for path in run.checkpoints()] == ["step_1", "step_2", "step_3"]
    assert run.metrics()[-1]["rollout/filter_kept_count"] == 0
    assert run.status()["verdict"]["evidence"]["steps"] == 3


def test_zero_task_advantage_alone_leaves_the_policy_where_it_was(base, tmp_path):
    experiment = compose(
        base, "zero_task_advantage=true", "entropy_coeff=0", "trainer.steps=1", "trainer.weight_decay=0"
    )
    outcome = uncollapse.train(experiment, tmp_path / "run")
    assert outcome.metrics["actor/grad_norm"] == 0
    start = Path(base["model"]["path"])
    assert same(weights(start.parent, start.name), weights(outcome.path / "checkpoints" / "step_1"))


def test_what_a_process_starts_after_a_run_of_its_own_does_not_take_itself_for_a_rank(base, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    assert {"RANK", "WORLD_SIZE", "LOCAL_RANK"}.isdisjoint(os.environ)  # the last one would do for accelerate
    state = "from accelerate import PartialState; import os; PartialState(); print('RANK' in os.environ)"
    done = subprocess.run([sys.executable, "-c", state], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


class Watching:
    """A callback that remembers what it was told."""

    def __init__(self):
        self.told = []

    @uncollapse.hookimpl
    def rollouts_collected(self, run, step, rollouts):
        assert run.status()["status"] == "running"
        self.told.append(("rollouts", step, tuple(rollouts.tokens.shape), len(rollouts.raw_rewards_E)))

    @uncollapse.hookimpl
    def step_finished(self, step, metrics):
        self.told.append(("step", step, metrics.get("train/rows")))


def test_callbacks_hear_of_rollouts_and_steps(base, tmp_path):
    watching = Watching()
    uncollapse.train(compose(base, "trainer.steps=2"), tmp_path / "run", callbacks=[watching])
    kinds = [(kind, step) for kind, step, *_ in watching.told]
    assert kinds == [("step", 0), ("rollouts", 1), ("step", 1), ("rollouts", 2), ("step", 2)]
    (_, _, shape, episodes), rows = watching.told[1], watching.told[2][2]
    assert shape[0] == rows == episodes == 8


class Misspelt:
    @uncollapse.hookimpl
    def step_finish(self, step):
        pass


class Failing:
    @uncollapse.hookimpl
    def rollouts_collected(self, rollouts):
        raise KeyError("length")


@pytest.mark.parametrize(
    ("callback", "error", "message"),
    [(Misspelt(), RequestError, "did you mean 'step_finished'"), (Failing(), RunError, "failed in rollouts_collected")],
)
def test_a_callback_that_fails_ends_the_run_by_name(base, tmp_path, callback, error, message):
    with pytest.raises(error, match=message) as raised:
        uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run", callbacks=[callback])
    assert type(callback).__name__ in str(raised.value)


def test_a_directory_with_another_experiment_is_refused_and_untouched(base, tmp_path):
    uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    for resume in (False, True):
        with pytest.raises(RequestError, match="another experiment"):
            uncollapse.train(compose(base, "trainer.steps=1", "trainer.lr=0.5"), tmp_path / "run", resume=resume)
    with pytest.raises(RequestError, match=r"--resume \(resume=True in Python\)"):
        uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_damaged_checkpoint_is_skipped_and_that_is_said(base, tmp_path, capsys):
    experiment = compose(base, "trainer.save_every=1", "trainer.steps=3")
    uncollapse.train(experiment, tmp_path / "run")
    damaged = tmp_path / "run" / "checkpoints" / "step_3" / "model" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(RequestError, match="complete ones: step_1, step_2"):
        evaluate(damaged.parents[1])
    outcome = uncollapse.train(experiment, tmp_path / "run", resume=True)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "step_3 is damaged" in log
    assert "resuming from step_2" in log
    assert "step_3 is damaged" in capsys.readouterr().err
    assert outcome.status == "success"
    assert RunDirectory.open(outcome.path).latest().name == "step_3"
    assert [record["step"] for record in RunDirectory.open(outcome.path).metrics()] == [0, 1, 2, 3]


def test_a_run_that_failed_after_its_last_checkpoint_ends_when_resumed(base, tmp_path, monkeypatch):
    experiment = compose(base, "trainer.steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_rollouts", lambda run, step, records: 1 / 0 if step == 2 else None)
        with pytest.raises(ZeroDivisionError):
            uncollapse.train(experiment, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert (run.status()["status"], run.latest().name) == ("failed", "step_2")
    assert uncollapse.train(experiment, tmp_path / "run", resume=True).status == "success"
    assert run.status()["status"] == "success"
    assert [record["step"] for record in run.metrics()] == [0, 1, 2]
    again = uncollapse.train(experiment, tmp_path / "run", resume=True)
    assert (again.status, again.metrics["train/rows"]) == ("success", 8)
    assert "nothing to resume" in (tmp_path / "run" / "log.txt").read_text()
    less = compose(base, "trainer.steps=2", "trainer.micro_batch=1")  # it ran with 2, and its record says so
    assert uncollapse.train(less, tmp_path / "run", resume=True).status == "success"
    assert uncollapse.compose(tmp_path / "run" / "config.yaml") == experiment


def test_a_stopped_run_is_not_trained_past_its_verdict(base, tmp_path):
    experiment = compose(base, "filter.select=top_p(0.9)", "filter.empty_stop_steps=1")
    first = uncollapse.train(experiment, tmp_path / "run")
    second = uncollapse.train(experiment, tmp_path / "run", resume=True)
    assert first.status == second.status == "stopped:empty_filter"
    assert RunDirectory.open(tmp_path / "run").metrics()[-1]["step"] == 1


def test_a_wrong_request_does_not_block_the_corrected_one(base, tmp_path):
    wrong = {**base, "model": {**base["model"], "path": str(tmp_path)}}
    with pytest.raises(RequestError, match="cannot load a model"):
        uncollapse.train(compose(wrong, "trainer.steps=1"), tmp_path / "run")
    assert uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run").status == "success"


def test_a_full_disk_fails_the_run_and_leaves_earlier_checkpoints_alone(base, tmp_path, monkeypatch):
    original, calls = checkpoint.torch.save, []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(RunError, match="the disk is full"):
        uncollapse.train(compose(base, "trainer.save_every=1"), tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.status()["status"] == "failed"
    assert "No space left" in run.status()["error"]
    assert [path.name for path in run.checkpoints()] == ["step_1"]
    assert not list((tmp_path / "run" / "checkpoints").glob("*.tmp"))


def test_a_checkpoint_that_does_not_fit_is_not_begun(base, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    with pytest.raises(RunError, match=r"a checkpoint needs .* MiB and 1\.0 MiB are free"):
        uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.status()["status"] == "failed"
    assert run.metrics()[-1]["step"] == 0
    assert not run.checkpoints()


def test_the_status_fits_on_a_disk_without_room_for_a_second_file(base, tmp_path, monkeypatch):
    original = files.replace_text

    def full(path, text):
        if path.name == "status.json" and '"failed"' in text:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, text)

    monkeypatch.setattr(runs, "replace_text", full)
    monkeypatch.setattr(checkpoint, "save_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        uncollapse.train(compose(base, "trainer.steps=1"), tmp_path / "run")
    status = RunDirectory.open(tmp_path / "run").status()
    assert (status["status"], status["error"]) == ("failed", "division by zero")


def test_evaluation_of_the_last_checkpoint_repeats_the_last_validation(base, tmp_path):
    outcome = uncollapse.train(compose(base, "trainer.steps=2"), tmp_path / "run")
    metrics = evaluate(outcome.path)
    assert {key: outcome.metrics[key] for key in metrics} == pytest.approx(metrics)


def start(base, directory, *arguments):
    from uncollapse.core.yaml import dumps

    config = directory / "experiment.yaml"
    config.write_text(dumps(base))
    command = [sys.executable, "-m", "uncollapse.cli.main", "train", str(config), "--run-dir", str(directory / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([*command, *arguments], env=environment, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_finishes_the_step_and_the_run_can_be_resumed(base, tmp_path):
    long = {**base, "trainer": {**base["trainer"], "steps": 500}, "validation": {"groups": 2, "every": 0}}
    process = start(long, tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    run = RunDirectory.open(tmp_path / "run")
    assert run.status()["status"] == "interrupted"
    step = run.metrics()[-1]["step"]
    assert run.latest().name == f"step_{step}"
    process = start(long, tmp_path, "--resume")
    while run.metrics()[-1]["step"] <= step + 1:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    steps = [record["step"] for record in run.metrics()]
    clock = [record["timing_s/total"] for record in run.metrics()]
    assert clock == sorted(clock)
    assert run.status()["timings"]["total"] == clock[-1]
    assert steps == list(range(1, steps[-1] + 1))


@pytest.mark.parametrize(
    "overrides",
    [
        ("kl.coef=0.05", "trainer.epochs=2", "collapse=[mutual_information, entropy_forecast]"),
        ("model.lora={rank: 4}", "model.gradient_checkpointing=true", "kl.coef=0.05", "trainer.zero_stage=2"),
        ("advantage=grpo", "filter.metric=entropy", "filter.select=top_f(0.5)", "trainer.zero_stage=3"),
    ],
)
def test_packed_rows_train_as_padded_ones_do(base, tmp_path, overrides):
    passes = []

    def run(name, *more):
        with pytest.MonkeyPatch.context() as patch:
            forward = packing.packed_hidden
            patch.setattr(models, "packed_hidden", lambda *given: passes.append(name) or forward(*given))
            uncollapse.train(compose(base, *overrides, "trainer.steps=2", "trainer.lr=1e-5", *more), tmp_path / name)
        return without_times(RunDirectory.open(tmp_path / name).metrics())

    padded, packed = run("padded"), run("packed", "trainer.token_budget=600")
    assert set(passes) == {"packed"}
    for expected, found in zip(padded, packed, strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)
        losses = [key for key in expected if key.endswith("_loss")]
        assert [found[key] for key in losses] == pytest.approx([expected[key] for key in losses], abs=1e-5)
    assert padded[-1]["actor/grad_norm"] > 0


def test_a_run_with_an_offloaded_optimizer_resumes_as_one_without(base, tmp_path):
    overrides = ("trainer.zero_stage=2", "trainer.lr=1e-5", "trainer.save_every=2")
    plain = compose(base, *overrides)
    uncollapse.train(plain, tmp_path / "plain")
    offloaded = compose(base, *overrides, "trainer.offload=optimizer")
    uncollapse.train(offloaded, tmp_path / "offloaded")
    run = RunDirectory.open(tmp_path / "offloaded")
    run.latest().rename(tmp_path / "moved")
    run.set_status("interrupted")  # as if the last steps had not been done
    assert uncollapse.train(offloaded, tmp_path / "offloaded", resume=True).status == "success"
    found, expected = run.metrics(), RunDirectory.open(tmp_path / "plain").metrics()
    for ours, theirs in zip(without_times(found), without_times(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5, nan_ok=True)
    assert weights(run.latest()).keys() == weights(tmp_path / "moved").keys()


@pytest.mark.parametrize(
    ("stage", "advice"),
    [("update", "lower trainer.micro_batch"), ("score", "lower trainer.score_batch")],
)
def test_out_of_memory_names_the_stage_and_what_to_lower(base, tmp_path, monkeypatch, stage, advice):
    from uncollapse.plugins.training.step import stages

    own = getattr(stages, stage)

    def exhausted(*arguments, **options):
        if RunDirectory.open(tmp_path / "run").status()["step"] == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return own(*arguments, **options)

    monkeypatch.setattr(stages, stage, exhausted)
    experiment = compose(base, "trainer.save_every=1", "trainer.mini_batch=4")
    with pytest.raises(RunError, match="out of memory") as caught:
        uncollapse.train(experiment, tmp_path / "run")
    assert advice in str(caught.value) and stage in str(caught.value)
    status = RunDirectory.open(tmp_path / "run").status()
    assert status["status"] == "failed" and "out of memory" in status["error"]
    monkeypatch.undo()
    less = compose(
        base, "trainer.save_every=1", "trainer.mini_batch=4", "trainer.micro_batch=1", "trainer.score_batch=1"
    )
    assert uncollapse.train(less, tmp_path / "run", resume=True).status == "success"
    assert uncollapse.compose(tmp_path / "run" / "config.yaml") == less
    assert "trainer.micro_batch: 2 -> 1" in (tmp_path / "run" / "log.txt").read_text()
    with pytest.raises(RequestError, match="another experiment"):
        uncollapse.train(compose(base, "trainer.save_every=1", "trainer.lr=1e-4"), tmp_path / "run", resume=True)
