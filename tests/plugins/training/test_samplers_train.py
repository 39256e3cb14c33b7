"""Runs whose samplers learn, sample twice in a step and keep groups: killed, resumed, on several ranks, evaluated."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import uncollapse
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.training.evaluate import evaluate
from uncollapse.plugins.training.step.loop import Loop

PLUGIN = Path(__file__).with_name("samplers_plugin.py")
SAMPLERS = {"tasks": "rated", "batch": {"name": "hoards", "more": 2}}


@pytest.fixture(scope="module", autouse=True)
def plugin():
    registry().load_file(PLUGIN)


@pytest.fixture(scope="module")
def hoarding(bandit):
    """As plain data; ReMax wants a greedy episode of each group that was collected."""
    trainer = {**bandit["trainer"], "steps": 3, "log_rollouts": 99}
    validation = {**bandit["validation"], "every": 3, "before_train": False}
    own = {"rollout": {**bandit["rollout"], **SAMPLERS}, "trainer": trainer, "validation": validation}
    return {**bandit, **own, "advantage": "remax"}


@pytest.fixture(scope="module")
def whole(hoarding, tmp_path_factory):
    return RunDirectory.open(uncollapse.train(hoarding, tmp_path_factory.mktemp("whole") / "run").path)


def content(run):
    """All that a run leaves, but for times."""
    metrics = [{k: v for k, v in record.items() if not k.startswith("timing_s/")} for record in run.metrics()]
    state = json.loads((run.latest() / "state.json").read_text())
    moments = torch.load(run.latest() / "optimizer.pt", weights_only=True)["state"]
    plain = {name: values["exp_avg_sq"].tolist() for name, values in moments.items()}
    weights = (run.latest() / "model" / "model.safetensors").read_bytes()
    return metrics, state["samplers"], plain, weights, transcripts(run)


def transcripts(run):
    return {
        path.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((run.path / "rollouts").iterdir())
    }


def test_the_metrics_are_those_of_the_groups_that_make_the_step(whole):
    records = [record for record in whole.metrics() if record["step"]]
    assert [record["rollout/old_groups"] for record in records] == [0, 2, 4]
    left = [record["rollout/left_groups"] for record in records]
    assert left[:2] == [2, 4]
    assert 4 <= left[2] <= 6  # the tasks of those that wait may come again, and then the older group is kept
    assert all(record["train/rows"] == 8 for record in records)
    # the step of new groups has only their rounding; later ones were sampled by a policy that has moved since
    assert records[0]["mismatch/abs"] < 1e-5 < 1e-4 < min(record["mismatch/abs"] for record in records[1:])


def test_transcripts_tell_of_the_groups_that_make_the_step(whole):
    texts = transcripts(whole)
    groups = [sorted({text["group"] for text in texts[f"step_{step}.jsonl"]}) for step in (1, 2, 3)]
    assert [len(each) for each in groups] == [4, 4, 4]
    kept = json.loads((whole.latest() / "state.json").read_text())["samplers"]["batch"]["left"]
    left = {group["group of episodes"]["episodes"][0]["seed"] for group in kept}
    assert len(left) == whole.metrics()[-1]["rollout/left_groups"]
    assert not left & set(groups[-1])


def test_stale_groups_are_scored_anew_where_new_ones_are_not(hoarding, tmp_path):
    """One optimizer step under dropout: new groups are taken at the sampler's word."""
    settings = ("trainer.mini_batch=8", "trainer.steps=2", "model.lora={rank: 4, dropout: 0.5}", "validation.every=0")
    run = RunDirectory.open(uncollapse.train(uncollapse.compose(hoarding, settings), tmp_path / "run").path)
    assert ["mismatch/abs" in record for record in run.metrics()] == [False, True]
    assert [record["rollout/old_groups"] for record in run.metrics()] == [0, 2]


@pytest.mark.parametrize("step", [1, 2])
def test_a_run_that_keeps_groups_is_resumed_as_if_it_had_never_ended(hoarding, whole, tmp_path, monkeypatch, step):
    train_step = Loop.train_step

    def ends(loop):
        if loop.step == step:
            loop.parts.sampler.train(step)  # what is sampled in a step that is lost leaves no trace
            raise MemoryError("killed")
        return train_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", ends)
        with pytest.raises(MemoryError):
            uncollapse.train(hoarding, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert run.latest().name == f"step_{step}"
    uncollapse.train(hoarding, run.path, resume=True)
    assert content(run) == content(whole)


def test_eval_starts_no_sampler(whole, monkeypatch):
    cls = registry().entry("batch_sampler", "hoards").target
    monkeypatch.setattr(cls, "start", lambda *given: pytest.fail("started"))
    assert evaluate(whole.path)["validation/success"] == whole.metrics()[-1]["validation/success"]


@pytest.fixture(scope="module")
def teaching(bandit):
    """As plain data: every third task teaches, tasks are shuffled, and what is left over is kept."""
    rollout = {**bandit["rollout"], "groups": 2, "tasks": "shuffled", "batch": "dynamic(rounds=4, size=3)"}
    own = {"rollout": rollout, "filter": {"select": {"name": "top_p", "value": 1.0, "include_zero": False}}}
    trainer = {**bandit["trainer"], "steps": 4, "mini_batch": 2, "log_rollouts": 99}
    validation = {**bandit["validation"], "every": 4, "before_train": False, "environment": None}
    world = {"environment": "coins", "dialogue": "waits", "advantage": "rloo"}
    return {**bandit, **own, **world, "trainer": trainer, "validation": validation}


@pytest.fixture(scope="module")
def taught(teaching, tmp_path_factory):
    return RunDirectory.open(uncollapse.train(teaching, tmp_path_factory.mktemp("taught") / "run").path)


def test_steps_of_dynamic_sampling_are_made_of_groups_that_teach(taught):
    records = [record for record in taught.metrics() if record["step"]]
    for step, record in enumerate(records, 1):
        groups = {text["group"] for text in transcripts(taught)[f"step_{step}.jsonl"]}
        assert len(groups) == 2
        assert all(group % 8 % 3 == 0 for group in groups)
        assert (record["rollout/filter_kept_ratio"], record["rollout/filter_zero_count"]) == (1.0, 0.0)
        assert record["train/success"] == 0.5
        assert record["train/rows"] == 4
    # 3 of 8 tasks teach: every episode of the tasks that were drawn is in the step, discarded, or kept
    sampled = 2 * 3 * sum(record["rollout/rounds"] for record in records)
    trained = sum(record["train/rows"] for record in records)
    discarded = sum(record["rollout/discarded_episodes"] for record in records)
    assert sampled == trained + discarded + records[-1]["rollout/kept_episodes"]
    drawn = json.loads((taught.latest() / "state.json").read_text())["samplers"]["tasks"]["drawn"]
    assert 2 * drawn == sampled
    assert any(record["rollout/kept_episodes"] for record in records)


def ended_and_resumed(experiment, path, monkeypatch, step):
    """The run, which ended while step ``step`` (from 0) was sampled, and went on."""
    train_step = Loop.train_step

    def ends(loop):
        if loop.step == step:
            loop.parts.sampler.train(step)
            raise MemoryError("killed")
        return train_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", ends)
        with pytest.raises(MemoryError):
            uncollapse.train(experiment, path)
    uncollapse.train(experiment, path, resume=True)
    return RunDirectory.open(path)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_dynamic_sampling_of_shuffled_tasks_is_resumed_as_if_it_had_never_ended(
    teaching, taught, tmp_path, monkeypatch, step
):
    assert content(ended_and_resumed(teaching, tmp_path / "run", monkeypatch, step)) == content(taught)


def test_a_replay_of_tasks_in_a_band_is_resumed_as_if_it_had_never_ended(teaching, tmp_path, monkeypatch):
    rollout = {"groups": 4, "tasks": "success_band(share=0.9)", "batch": "replay(capacity=5)"}
    replaying = {**teaching, "rollout": {**teaching["rollout"], **rollout}, "correction": "tis"}
    whole = RunDirectory.open(uncollapse.train(replaying, tmp_path / "whole").path)
    records = [record for record in whole.metrics() if record["step"]]
    assert [record["rollout/replayed_groups"] for record in records] == [0, 2, 2, 2]
    # a task that comes again takes the place of its older group
    assert [record["rollout/remembered_groups"] for record in records] == [4, 4, 5, 5]
    assert records[0]["rollout/replayed_age"] == 0 < 1 <= records[1]["rollout/replayed_age"]
    # three of eight tasks lie in the band, and come more often than the others
    groups = [text["group"] for texts in transcripts(whole).values() for text in texts]
    assert sum(group % 8 % 3 == 0 for group in groups) > 3 / 8 * len(groups)
    assert content(ended_and_resumed(replaying, tmp_path / "run", monkeypatch, 2)) == content(whole)


# --- other processes --------------------------------------------------------------------------------------------------


def command(config, run, *words):
    program = [sys.executable, "-m", "uncollapse.cli.main", "--plugin", str(PLUGIN)]
    return [*program, "train", str(config), "--run-dir", str(run), *words]


def finished(words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_run_that_keeps_groups_survives_a_kill(hoarding, whole, tmp_path):
    config, path = tmp_path / "hoarding.yaml", tmp_path / "run"
    trainer = {**hoarding["trainer"], "save_every": 1}
    config.write_text(dumps({**hoarding, "trainer": trainer}))
    (tmp_path / "dies.py").write_text(
        "import os\nfrom uncollapse import hookimpl\n\n\n@hookimpl\ndef rollouts_collected(run, step):\n"
        f"    if step == 3 and os.environ.get('DIES'):\n        os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    words = command(config, path)
    words[3:3] = ["--plugin", str(tmp_path / "dies.py")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIES", "1")
        assert finished(words).returncode == -signal.SIGKILL
    assert RunDirectory.open(path).latest().name == "step_2"
    done = finished([*words, "--resume"])
    assert done.returncode == 0, done.stderr
    assert content(RunDirectory.open(path)) == content(whole)


@pytest.mark.slow
def test_two_ranks_draw_keep_and_collect_the_same_and_one_goes_on(hoarding, tmp_path):
    trainer = {**hoarding["trainer"], "steps": 2, "mini_batch": 4, "micro_batch": 2}
    rollout = {**hoarding["rollout"], "batch": {"name": "hoards", "more": 1}}  # a round with a group for one rank only
    config, path = tmp_path / "two.yaml", tmp_path / "run"
    config.write_text(dumps({**hoarding, "rollout": rollout, "trainer": {**trainer, "save_every": 1, "keep": 0}}))
    done = finished(command(config, path, "--ranks", "2"))
    assert done.returncode == 0, done.stderr
    run = RunDirectory.open(path)
    assert [record["rollout/left_groups"] for record in run.metrics() if record["step"]] == [1, 2]
    first = transcripts(run)
    run.latest().rename(tmp_path / "moved")
    run.set_status("interrupted")  # as if the last step had not been done
    done = finished(command(config, path, "--resume"))
    assert done.returncode == 0, done.stderr
    assert "resuming from step_1" in done.stderr
    again = transcripts(run)
    assert again["step_1.jsonl"] == first["step_1.jsonl"]
    groups = [[text["group"] for text in texts["step_2.jsonl"]] for texts in (first, again)]
    assert groups[0] == groups[1]  # the very tasks, though one rank has noise of its own
