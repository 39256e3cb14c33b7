from __future__ import annotations

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.launch import slots
from uncollapse.plugins.launch.job import Job
from uncollapse.plugins.launch.local import Local
from uncollapse.plugins.launch.slots import visible_gpus


@pytest.fixture(autouse=True)
def eight_cores_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(slots.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def install_nvidia_smi(tmp_path, script):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


THREE = "echo 'GPU 0: X (UUID: GPU-aa1)\n  MIG 1g.10gb Device 0: (UUID: MIG-cc3)\nGPU 1: X (UUID: GPU-bb2)\nGPU 2: X'"


def devices(launcher):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in launcher._slots()]


def test_one_slot_per_core_without_a_gpu():
    assert Local().describe() == [f"slot {i}: CPU, 1 thread" for i in range(8)]
    assert Local(slots=3).describe() == [f"slot {i}: CPU, 2 threads" for i in range(3)]
    assert Local(max_parallel=2).describe() == [f"slot {i}: CPU, 4 threads" for i in range(2)]
    (slot, *_) = Local(slots=100)._slots()
    assert slot.environment == {
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_visible_gpus_are_the_slots(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 6")
    assert visible_gpus() == ["4", "6"]
    assert devices(Local()) == ["4", "6"]
    assert devices(Local(slots=3)) == ["4", "6", "4"]
    assert devices(Local(slots=1)) == ["4"]
    assert devices(Local(gpus_per_job=2)) == ["4,6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


@pytest.mark.parametrize("gpus", ["0,1,2,3", [0, 1, 2, 3], ("0", "1", "2", "3")])
def test_consecutive_gpus_form_slots(gpus):
    assert Local(gpus=gpus, gpus_per_job=2).describe() == ["slot 0: GPU 0,1", "slot 1: GPU 2,3"]
    assert Local(gpus=gpus, max_parallel=3).describe() == ["slot 0: GPU 0", "slot 1: GPU 1", "slot 2: GPU 2"]


def test_one_gpu_may_be_given_as_a_number():
    assert registry().create("launcher", "local", gpus=3).describe() == ["slot 0: GPU 3"]


def test_gpus_are_counted_by_nvidia_smi(tmp_path):
    install_nvidia_smi(tmp_path, THREE)
    assert visible_gpus() == ["0", "1", "2"]


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'; exit 6"])
def test_a_broken_driver_is_no_gpu(tmp_path, script):
    install_nvidia_smi(tmp_path, script)
    assert visible_gpus() == []
    assert devices(Local(gpus="5")) == ["5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": "0,1,2", "gpus_per_job": 2}, "3 GPUs cannot be shared out by 2"),
        ({"gpus": "0", "gpus_per_job": 2}, "a job asks for 2 GPUs, and there is 1"),
        ({"gpus_per_job": 2}, "a job asks for 2 GPUs, and there are 0"),
        ({"gpus": "0,1,1,0"}, "GPU 0, 1 is named twice"),
        ({"gpus": "0,,1"}, "an id in the list of GPUs is empty"),
        ({"gpus": ""}, "an id in the list of GPUs is empty"),
        ({"gpus": []}, "an id in the list of GPUs is empty"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path, options, message):
    job = Job("job", ("true",), tmp_path / "log" / "log.txt")
    for ask in (Local(**options).describe, lambda: Local(**options).run([job])):
        with pytest.raises(RequestError, match=message):
            ask()
    assert not job.log.parent.exists()


def test_gpus_that_the_machine_does_not_have_are_refused(tmp_path):
    install_nvidia_smi(tmp_path, THREE)
    assert devices(Local(gpus="2,GPU-bb2,MIG-cc3")) == ["2", "GPU-bb2", "MIG-cc3"]
    for gpu in ("3", "GPU-dd", "x"):
        with pytest.raises(RequestError, match=f"this machine has no GPU {gpu}") as caught:
            Local(gpus=["0", gpu]).describe()
        assert "lists 3: 0, 1, 2" in caught.value.where


def test_a_list_of_gpus_is_taken_at_its_word_where_nobody_can_tell():
    assert slots.shutil.which("nvidia-smi") is None
    assert devices(Local(gpus="6,7")) == ["6", "7"]


def test_gpus_are_refused_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(slots, "DEVICES", (str(tmp_path / "nvidia*"),))
    with pytest.raises(RequestError, match="this machine has no GPU"):
        Local(gpus="a").describe()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus() == []
    (tmp_path / "nvidia0").touch()
    assert devices(Local(gpus="6,7")) == ["6", "7"]
    with pytest.raises(RequestError, match="'a' is no id of a GPU"):
        Local(gpus="a").describe()
