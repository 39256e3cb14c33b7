"""Runs that follow each other in the same processes, and what ranks that see different rows make of them together."""

import json
import sys
import threading
from pathlib import Path

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.train import train

sys.path.insert(0, str(Path(__file__).parent))
from ranks_launch import launch

HERE = Path(__file__).parent


@pytest.mark.slow
def test_each_of_several_runs_in_the_same_ranks_is_a_run_of_its_own(bandit, tmp_path):
    trainer = {**bandit["trainer"], "mini_batch": 4, "micro_batch": 2, "zero_stage": 2, "steps": 2}
    fails = {"name": "failing", "at": 10005}
    plugins = {"plugins": [str(HERE / "several_runs_plugin.py")], "advantage": "grpo", "validation": {"every": 0}}
    common = {**bandit, **plugins, "trainer": trainer}
    experiments = {
        "sharded": {**common, "trainer": {**trainer, "zero_stage": 3, "steps": 1}},
        "curious": {**common, "trainer": {**trainer, "steps": 4}, "policy_loss": "curious"},
        "first": {**common, "environment": fails},
        "second": {**common, "environment": fails, "seed": 1},
    }
    (tmp_path / "experiments.json").write_text(json.dumps(experiments))
    launch(HERE / "several_runs_script.py", tmp_path)

    runs = {name: RunDirectory.open(tmp_path / name) for name in experiments}
    assert [runs[name].status()["status"] for name in ("sharded", "curious")] == ["success", "success"]
    # each rank has measured by other names than its neighbour, and by others in one optimizer step than in the next
    said = [{name: record.get(f"actor/says_{name}") for name in (1, 2)} for record in runs["curious"].metrics()]
    assert {name: {each[name] for each in said} - {None} for name in (1, 2)} == {1: {1.0}, 2: {2.0}}
    # rank 1 fails in step 2: what was trained is kept, in whichever run of the process that is
    for name in ("first", "second"):
        assert (runs[name].status()["status"], runs[name].latest().name) == ("failed", "step_1"), name


def test_a_run_may_train_in_any_thread(bandit, tmp_path):
    """Only the main one can be told what signals do; the others leave them to the program around them."""
    experiment = {**bandit, "trainer": {**bandit["trainer"], "steps": 1}, "advantage": "grpo"}
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(train(experiment, tmp_path / "run").status))
    thread.start()
    thread.join()
    assert statuses == ["success"]


def test_a_process_that_another_group_holds_is_no_rank_of_this_one(monkeypatch):
    """DeepSpeed would average with whoever is in the group of torch.distributed, whatever the variables say."""
    assert start_ranks().size == 1
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RequestError, match=r"rank 0 of 1 in torch.distributed, and by .* variables rank 1 of 2"):
        start_ranks()
