"""The command that starts a run's processes: on which GPUs."""

import base64
import json

import pytest
import torch
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.distributed import launch_command


def devices(ranks):
    (world,) = (word.removeprefix("--world_info=") for word in launch_command(["train"], ranks) if "world_info" in word)
    return json.loads(base64.urlsafe_b64decode(world))["localhost"]


def test_each_rank_has_a_gpu_of_those_that_may_be_seen(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1234,2")
    assert devices(2) == [5, "GPU-1234"]
    assert devices(3) == [5, "GPU-1234", 2]
    with pytest.raises(RequestError, match="there are 3 GPUs for 4 ranks"):
        devices(4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices(2) == [0, 1]


def test_without_gpus_there_are_as_many_ranks_as_wanted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert devices(3) == [0, 1, 2]
