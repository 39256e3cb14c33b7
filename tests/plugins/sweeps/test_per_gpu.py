"""``sweep run --per-gpu``: runs share GPUs in equal parts of their memory, or the sweep does not start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner
from uncollapse import Sweep
from uncollapse.cli.main import main
from uncollapse.core.components import Launcher
from uncollapse.core.errors import RequestError
from uncollapse.core.gpu_share import GIB, VARIABLE
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.launch import slots
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local
from uncollapse.plugins.launch.ray import Ray
from uncollapse.plugins.sweeps.run import Options
from uncollapse.plugins.sweeps.side_by_side import sharing
from uncollapse.plugins.training.memory import cards
from uncollapse.plugins.training.memory.cards import Card
from uncollapse.plugins.training.memory.fitting import Request
from uncollapse.plugins.training.memory.side_by_side import most_runs

EXPERIMENT = {
    "model": {"build": "tiny_qwen2"},
    "environment": "bandit",
    "rollout": {"groups": 4, "group_size": 2, "max_context": 96, "max_tokens": 8},
    "trainer": {"steps": 1, "mini_batch": 8, "micro_batch": 4},
    "validation": {"every": 0},
    "advantage": "grpo",
}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of two GPUs and eight cores, whose GPUs have as much memory as the test says; nothing is read of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(slots, "has_gpu", lambda: True)
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: set(range(8)))
    asked = []

    def have(*free):
        def read(ids):
            asked.append(list(ids))
            return [Card("GPU of the test", 80 * GIB, size) for size in free]

        monkeypatch.setattr(cards, "cards_by_id", read)
        return asked

    return have


@attrs.frozen
class Recording(Local):
    """The launcher ``local``, with what it was given in place of processes; every job succeeds."""

    def run(self, jobs, on_start=None, on_finish=None):
        SEEN.extend((self, job) for job in jobs)
        for job in jobs:
            on_start(job)
            RunDirectory(job.log.parent).set_status("success")
            on_finish(job, 0)
        return [0 for _ in jobs]


SEEN: list[tuple[Local, Job]] = []


def run(root, launcher=None, seeds=4, **options):
    SEEN.clear()
    result = Sweep(EXPERIMENT, axes={"seed": list(range(seeds))}).run(root, launcher or Recording(), Options(**options))
    assert set(result.statuses.values()) == {"success"}
    return list(SEEN)


def hashes(root):
    return {json.loads(file.read_text())["hash"] for file in Path(root).rglob("status.json")}


def test_each_run_is_told_its_share_which_is_no_part_of_what_it_is(machine):
    asked = machine(60 * GIB, 48 * GIB)
    shared = run("shared", per_gpu=3)
    assert asked == [["3", "5"]]
    (launcher, _), *_ = shared
    assert [slot.gpus for slot in launcher._slots()] == [("3",), ("5",)] * 3
    assert {slot.threads for slot in launcher._slots()} == {1}
    assert [dict(job.env) for _, job in shared] == [{VARIABLE: "16"}] * 4  # a third of the GPU with less
    run("alone")
    assert [dict(job.env) for _, job in SEEN] == [{}] * 4
    assert hashes("shared") == hashes("alone")
    assert run("shared", per_gpu=2) == []  # whatever the share was, they are done


def test_as_many_as_fit_have_a_core_each_and_are_there(machine):
    def auto(*free, points):
        machine(*free)
        prepared = Sweep(EXPERIMENT, axes={"seed": list(range(points))}).prepared("out")
        found = sharing(prepared, Local(), "auto", None)
        return found.launcher.per_gpu, found.words

    need = Request(Sweep(EXPERIMENT, axes={"seed": [0]}).points()[0].experiment).plan(0).fullest.total
    runs, words = auto(int(3.1 * need / 0.95), 80 * GIB, points=20)
    assert (runs, words.partition(",")[0]) == (3, "3 runs at a time on each GPU (as many as fit)")
    words = "4 runs at a time on each GPU (one for each core), 20.0 GiB for each"
    assert auto(80 * GIB, 80 * GIB, points=20) == (4, words)
    words = "2 runs at a time on each GPU (all at once), 40.0 GiB for each"
    assert auto(80 * GIB, 80 * GIB, points=3) == (2, words)


def test_a_sweep_whose_runs_do_not_fit_is_refused_and_writes_nothing(machine, tmp_path):
    machine(4 * GIB, 5 * GIB)
    experiment = Sweep(EXPERIMENT, axes={"seed": [0]}).points()[0].experiment
    most = most_runs([Request(experiment)], 4 * GIB)
    assert most == 2
    (tmp_path / "sweep.yaml").write_text(json.dumps({"experiment": EXPERIMENT, "axes": {"seed": [0, 1]}}))
    words = ["sweep", "run", "sweep.yaml", "--output-root", "out", "--per-gpu", "9"]
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(main, [*words, *more])
        assert refused.exit_code == 2
        assert (
            "error: 9 runs side by side do not fit a GPU with 4.0 GiB: the share of each is 0.4 GiB" in refused.stderr
        )
        assert "where: seed 0, and 1 more of 2: " in refused.stderr
        assert f"fix:   --per-gpu (per_gpu in Python) {most}, the most that fit" in refused.stderr
    assert not (tmp_path / "out").exists()
    stated = CliRunner().invoke(main, [*words[:-1], "1", "--gpu-gib", "0.1", "--dry-run"])
    assert stated.exit_code == 2 and "1 run does not fit a GPU with 0.1 GiB" in stated.stderr
    fits = CliRunner().invoke(main, [*words[:-1], "2", "--dry-run"])
    assert fits.exit_code == 0, fits.output
    assert fits.stdout.count(f"    {VARIABLE}=2 {sys.executable} -m uncollapse.cli.main train ") == 2
    assert "    2 runs at a time on each GPU, 2.0 GiB for each" in fits.stdout.splitlines()
    assert [line.split(": ")[1] for line in fits.stdout.splitlines() if "slot " in line] == ["GPU 3", "GPU 5"] * 2
    assert not (tmp_path / "out").exists()


class Elsewhere(Launcher):
    """A launcher that gives each job a machine of its own."""

    def run(self, jobs, on_start=None, on_finish=None):
        raise AssertionError

    def describe(self):
        return []


@pytest.mark.parametrize(
    ("launcher", "options", "what", "fix"),
    [
        (Elsewhere(), {"per_gpu": 2}, "elsewhere gives every run GPUs of its own", "take the launcher local"),
        (Ray(address="10.0.0.1"), {"per_gpu": 2}, "cluster's GPUs is not known before", "--gpu-gib GIB"),
        (Local(slots=4), {"per_gpu": 2}, "slots and jobs per GPU are given", "drop one of them"),
        (Local(), {"gpu_gib": 24.0}, "shares out, and that is not given", "give --per-gpu"),
    ],
)
def test_where_no_gpu_can_be_shared_that_is_said(machine, launcher, options, what, fix):
    machine(80 * GIB, 80 * GIB)
    with pytest.raises(RequestError, match=what) as refused:
        run("none", launcher, **options)
    assert fix in refused.value.fix
    assert not Path("none").exists()


def test_a_machine_without_a_gpu_has_none_to_share(machine, monkeypatch):
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RequestError, match="there is no GPU that runs could share") as refused:
        run("none", per_gpu="auto")
    assert refused.value.fix.startswith("--slots N")


def test_the_number_may_stand_in_the_launcher(machine):
    machine(80 * GIB, 80 * GIB)
    seen = run("out", Recording(per_gpu=4))
    assert [dict(job.env) for _, job in seen] == [{VARIABLE: "20"}] * 4


def test_jobs_that_share_a_gpu_see_that_one_alone_and_their_share(machine, tmp_path):
    """Real processes: each waits until four run at a time, two on each GPU."""
    code = f"""
import os, pathlib, sys, time
here = pathlib.Path({str(tmp_path)!r})
(here / ("began" + sys.argv[1])).write_text(os.environ["CUDA_VISIBLE_DEVICES"] + " " + os.environ["{VARIABLE}"])
while len(list(here.glob("began*"))) < 4: time.sleep(.02)
"""
    words = [(sys.executable, "-c", code, str(number)) for number in range(4)]
    jobs = [Job(argv[-1], argv, tmp_path / f"log{argv[-1]}", {VARIABLE: "16"}) for argv in words]
    assert Local(per_gpu=2).run(jobs) == [0] * 4
    seen = sorted((tmp_path / f"began{number}").read_text() for number in range(4))
    assert seen == ["3 16", "3 16", "5 16", "5 16"]


def test_ray_shares_a_gpu_in_parts_that_add_up_to_no_more_than_one():
    for jobs in range(2, 65):
        part = Ray(per_gpu=jobs)._part(1)
        assert part * jobs <= 1 and (part + 0.0001) * jobs > 1  # Ray counts in ten-thousandths
    assert Ray()._part(2) == 2
    assert Ray(per_gpu=6, cpus_per_job=1)._fitting({"CPU": 100.0, "GPU": 2.0}, 1) == 12
    with pytest.raises(RequestError, match="Ray shares out single GPUs"):
        Ray(per_gpu=2, gpus_per_job=2)._gpus(None)
