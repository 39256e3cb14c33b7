"""A whole run on two ranks: one run directory, the same detectors everywhere, and a resume on one rank."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.yaml import dumps
from uncollapse.plugins.training.processes.rank_processes import free_port


def launch(config, run, ranks, *arguments):
    place = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = {**os.environ, **place}
    command = [sys.executable, "-m", "uncollapse.cli.main", "train", str(config), "--run-dir", str(run), *arguments]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=250)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_train_one_run_that_one_rank_can_resume_under_another_zero_stage(bandit, tmp_path, stage):
    trainer = {**bandit["trainer"], "zero_stage": stage, "save_every": 2, "mini_batch": 4, "micro_batch": 2}
    config = tmp_path / "two.yaml"
    kl = {"coef": 0.01, "placement": "reward", "controller": "adaptive"}
    config.write_text(dumps({**bandit, "trainer": trainer, "kl": kl}))
    codes, outputs = launch(config, tmp_path / "run", 2)
    assert codes == [0, 0], outputs
    run = RunDirectory.open(tmp_path / "run")
    assert [record["step"] for record in run.metrics()] == [0, 1, 2, 3, 4]
    assert run.metrics()[-1]["train/rows"] == 8
    assert run.metrics()[-1]["actor/grad_norm"] > 0
    assert run.metrics()[-1]["rollout/logprob_gap"] < 1e-4
    assert run.status()["status"] == "success"

    checkpoint = run.latest()
    checkpoint.rename(tmp_path / "moved")
    run.set_status("interrupted")  # as if the last step had not been done
    codes, outputs = launch(config, tmp_path / "run", 1, "--resume", "--set", f"trainer.zero_stage={2 if stage else 1}")
    assert codes == [0], outputs
    assert "resuming from step_2" in outputs[0]
    assert run.latest().name == "step_4"
    assert [json.loads(line)["step"] for line in run.metrics_file.read_text().splitlines()] == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "alpha"), [(3, 0.5), (2, 1.0)])
def test_a_reference_that_moves_is_the_same_on_two_ranks_and_on_one_that_goes_on(bandit, tmp_path, stage, alpha):
    trainer = {**bandit["trainer"], "zero_stage": stage, "save_every": 2, "mini_batch": 4, "micro_batch": 2, "steps": 3}
    kl = {"coef": 0.1, "controller": {"name": "refresh", "every": 2, "alpha": alpha}}
    config, path = tmp_path / "two.yaml", tmp_path / "run"
    config.write_text(dumps({**bandit, "trainer": trainer, "kl": kl, "advantage": "grpo", "validation": {"every": 0}}))
    codes, outputs = launch(config, path, 2)
    assert codes == [0, 0], outputs
    run = RunDirectory.open(path)
    first = run.metrics()
    assert [record.get("reference/refreshed") for record in first] == [None, alpha, None]
    assert abs(first[0]["actor/kl"]) < 1e-6 < first[1]["actor/kl"]
    assert (first[2]["actor/kl"] > 1e-6) == (alpha < 1)
    moved = load_file(run.checkpoint_directory / "step_2" / "reference.safetensors")
    policy = load_file(run.checkpoint_directory / "step_2" / "model" / "model.safetensors")
    start = load_file(Path(bandit["model"]["path"]) / "model.safetensors")
    for name, weight in policy.items():
        expected = alpha * weight.double() + (1 - alpha) * start[name].double()
        torch.testing.assert_close(moved[f"model.{name}"].double(), expected, rtol=1e-6, atol=1e-8)
    run.latest().rename(tmp_path / "moved")
    run.set_status("interrupted")  # as if the last step had not been done
    codes, outputs = launch(config, path, 1, "--resume", "--set", "trainer.zero_stage=1")
    assert codes == [0], outputs
    # on other tokens, as another number of ranks samples them; to the start model it would be 4 times as much or more
    assert run.metrics()[2]["actor/kl"] == pytest.approx(first[2]["actor/kl"], rel=0.5, abs=1e-6)


@pytest.mark.slow
def test_groups_that_do_not_divide_by_the_ranks_are_a_wrong_request(bandit, tmp_path):
    config = tmp_path / "odd.yaml"
    rollout = {**bandit["rollout"], "groups": 3, "group_size": 4}
    config.write_text(dumps({**bandit, "rollout": rollout}))
    codes, outputs = launch(config, tmp_path / "run", 2)
    assert codes == [2, 2], outputs
    assert "rollout.groups = 3: must be a multiple of 2, the 2 processes" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(bandit, tmp_path, before, after):
    """bfloat16 under ZeRO 2, so that fp32 master weights and moments are put together and cut anew."""
    trainer = {**bandit["trainer"], "zero_stage": 2, "save_every": 2, "mini_batch": 4, "micro_batch": 2, "steps": 3}
    model = {**bandit["model"], "dtype": "bfloat16"}
    config, path = tmp_path / "two.yaml", tmp_path / "run"
    config.write_text(dumps({**bandit, "model": model, "trainer": trainer}))
    codes, outputs = launch(config, path, before)
    assert codes == [0] * before, outputs
    run = RunDirectory.open(path)
    first = run.metrics()
    run.latest().rename(tmp_path / "moved")
    run.set_status("interrupted")  # as if the last step had not been done
    codes, outputs = launch(config, path, after, "--resume")
    assert codes == [0] * after, outputs
    assert "resuming from step_2" in outputs[0]
    again = run.metrics()
    assert [record["step"] for record in again] == [0, 1, 2, 3]
    assert again[:3] == first[:3]
    assert run.status()["status"] == "success"
    assert again[-1]["actor/grad_norm"] > 0
    # two optimizer steps in each training step, and none is forgotten
    state = torch.load(run.latest() / "optimizer.pt", weights_only=True)["state"]
    assert {int(values["step"]) for values in state.values()} == {6}


HOOKS = """
import pathlib, time
from pluggy import HookimplMarker

implements = HookimplMarker("uncollapse")


@implements
def step_finished(run, step):
    (pathlib.Path(run.path) / f"seen_{step}").touch()
    time.sleep(1)


@implements
def validation_finished(run, step):
    (pathlib.Path(run.path) / f"validated_{step}").touch()


@implements
def run_finished(run, status):
    time.sleep(2)  # as a tracker that still sends what it has
    (pathlib.Path(run.path) / "sent").write_text(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stops", ["interrupted", "stopped:low_validation_success"])
def test_a_run_of_several_ranks_that_stops_early_finishes_what_it_is_doing(bandit, tmp_path, stops):
    (tmp_path / "hooks.py").write_text(HOOKS)
    detectors = [] if stops == "interrupted" else [{"name": "low_validation_success", "threshold": 1.0, "patience": 1}]
    config, run = tmp_path / "two.yaml", tmp_path / "run"
    trainer = {**bandit["trainer"], "mini_batch": 4, "micro_batch": 2, "steps": 50}
    config.write_text(dumps({**bandit, "trainer": trainer, "collapse": detectors}))
    uncollapse = [sys.executable, "-m", "uncollapse.cli.main", "--plugin", str(tmp_path / "hooks.py")]
    process = subprocess.Popen(
        [*uncollapse, "train", str(config), "--ranks", "2", "--run-dir", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if stops == "interrupted":
        deadline = time.monotonic() + 120
        while not (run / "seen_1").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == (130 if stops == "interrupted" else 3), output
    found = RunDirectory.open(run)
    assert found.status()["status"] == stops
    assert found.latest().name == f"step_{found.status()['step']}"
    assert (run / "sent").read_text() == stops
    assert (run / "validated_0").exists()
    assert output.count("finishing the step") == (1 if stops == "interrupted" else 0)


FAILING = """
import os, signal
import attrs
from uncollapse.core.hookspecs import hookimpl
from uncollapse.plugins.environments.bandit import Bandit


@attrs.frozen
class Failing(Bandit):
    at: int = -1
    how: str = "raise"

    def make(self, seed, member):
        if seed == self.at and self.how == "raise":
            raise ValueError("the row is too long")
        if seed == self.at and not member:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().make(seed, member)


@hookimpl
def register_environments(register):
    register("failing", Failing)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "status", "kept"), [("raise", 1, "failed", "step_1"), ("signal", 130, "interrupted", "step_2")]
)
def test_what_one_rank_meets_alone_ends_the_whole_run_and_keeps_its_steps(bandit, tmp_path, how, code, status, kept):
    (tmp_path / "failing.py").write_text(FAILING)
    config, run = tmp_path / "two.yaml", tmp_path / "run"
    rollout = {**bandit["rollout"], "groups": 2}
    trainer = {**bandit["trainer"], "zero_stage": 2, "steps": 9}
    environment = {"name": "failing", "at": 10003, "how": how}  # in step 2, the second group: rank 1
    own = {"environment": environment, "rollout": rollout, "trainer": trainer, "validation": {"groups": 2, "every": 0}}
    config.write_text(dumps({**bandit, **own, "advantage": "grpo"}))
    command = [sys.executable, "-m", "uncollapse.cli.main", "--plugin", str(tmp_path / "failing.py"), "train"]
    done = subprocess.run(
        [*command, str(config), "--ranks", "2", "--run-dir", str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found = RunDirectory.open(run)
    assert (found.status()["status"], found.latest().name) == (status, kept)
    if how == "raise":
        first, *_ = found.status()["error"].splitlines()
        assert first.startswith("rank 1 failed: ") and first.endswith("the row is too long")


@pytest.mark.slow
def test_two_ranks_filter_episodes_shape_rewards_and_steer_the_entropy_together(bandit, tmp_path):
    trainer = {**bandit["trainer"], "steps": 2, "mini_batch": 4, "micro_batch": 2}
    entropy, rollout = {"controller": "following"}, {**bandit["rollout"], "group_size": 4}
    parts = {"entropy": entropy, "reward": {"shaping": "brief"}, "filter": {"episodes": "second"}, "advantage": "rloo"}
    config = {**bandit, **parts, "rollout": rollout, "trainer": trainer}
    config["plugins"] = [str(Path(__file__).with_name("interventions_plugin.py"))]
    config.pop("entropy_coeff")
    (tmp_path / "parts.yaml").write_text(dumps(config))
    codes, outputs = launch(tmp_path / "parts.yaml", tmp_path / "run", 2)
    assert codes == [0, 0], outputs
    records = [record for record in RunDirectory.open(tmp_path / "run").metrics() if record["step"]]
    for number, record in enumerate(records):
        assert record["rollout/episode_kept_ratio"] == 0.5
        assert (record["train/rows"], record["train/optimizer_steps"]) == (8, 2)
        assert record["actor/entropy_coef"] == record["actor/entropy"] > 0
        # the reward of an arm less a quarter for each of up to 6 tokens, and less the step
        assert record["critic/returns_mean"] < -0.25 - number + 1
    assert len(records) == 2


@pytest.mark.slow
def test_all_ranks_learn_the_same_of_the_advantages(bandit, tmp_path):
    """Ranks that knew other baselines would compute other advantages, and a resume would keep those of the first."""
    trainer = {**bandit["trainer"], "save_every": 2, "steps": 3}
    config, path = tmp_path / "two.yaml", tmp_path / "run"
    config.write_text(
        dumps({**bandit, "trainer": trainer, "advantage": "entropic(1.0, kp=0.1, of=rae(0.5))", "collapse": []})
    )

    def records():
        steps = RunDirectory.open(path).metrics()
        return [{name: value for name, value in step.items() if "timing_s/" not in name} for step in steps]

    codes, outputs = launch(config, path, 2)
    assert codes == [0, 0], outputs
    whole = records()
    state = json.loads((path / "checkpoints" / "step_2" / "state.json").read_text())["advantage"]
    assert state["held"][0]["own"]["baseline"] == whole[2]["advantage/rae.baseline"] != 0
    (path / "checkpoints" / "step_3").rename(tmp_path / "moved")
    RunDirectory.open(path).set_status("interrupted")
    codes, outputs = launch(config, path, 2, "--resume")
    assert codes == [0, 0], outputs
    assert "resuming from step_2" in "".join(outputs)
    assert records() == whole
