"""Where vLLM's process runs and what it inherits, without starting it."""

import os

import pytest
import torch
from uncollapse.plugins.rollout.engine_vllm import receive_weights as worker
from uncollapse.plugins.rollout.engine_vllm.engine import VllmEngine
from uncollapse.plugins.rollout.engine_vllm.place import LAUNCHER, Place
from uncollapse.plugins.rollout.engine_vllm.start import SECOND_RUNNER, _has_second_runner


def test_gpus_have_numbers():
    with pytest.raises(ValueError, match="must be >= 0"):
        VllmEngine(gpus=(-1,))


def place(own, **settings):
    return Place(VllmEngine(**settings), torch.device("cuda", own))


@pytest.mark.parametrize(
    ("own", "settings", "visible", "trainer", "sleeps"),
    [
        (0, {}, "0", 0, True),
        (1, {}, "1", 0, True),  # the second of two ranks: its GPU is the only one that its engine sees
        (0, {"gpus": (1,)}, "1,0", 1, False),  # the trainer's comes last: handles to its memory must be opened there
        (0, {"tensor_parallel": 2}, "0,1", 0, True),
        (0, {"tensor_parallel": 2, "gpus": (2, 1)}, "2,1,0", 2, False),
        (0, {"sleep": False}, "0", 0, False),
    ],
)
def test_the_engine_sees_its_gpus_first_and_the_trainers(monkeypatch, own, settings, visible, trainer, sleeps):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = place(own, **settings)
    assert (found.visible, found.trainer, found.sleeps) == (visible, trainer, sleeps)


def test_gpus_are_counted_among_those_that_the_trainer_sees(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7f,6")
    assert place(0, gpus=(1,)).visible == "GPU-7f,4"
    assert place(2).visible == "6"


def test_what_a_launcher_says_is_hidden_from_the_engine_and_kept_for_the_trainer(monkeypatch):
    for name in LAUNCHER:
        monkeypatch.setenv(name, "1")
    assert {"LOCAL_RANK", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"} <= set(LAUNCHER)
    before = dict(os.environ)
    with place(1).environment():
        assert not set(LAUNCHER) & set(os.environ)
        assert os.environ["CUDA_VISIBLE_DEVICES"].count(",") == 0
    assert dict(os.environ) == before


def test_settings_of_ours_give_way_to_the_users(monkeypatch):
    monkeypatch.setenv("VLLM_ONE", "theirs")
    monkeypatch.delenv("VLLM_OTHER", raising=False)
    with place(0).environment(VLLM_ONE="ours", VLLM_OTHER="ours"):
        assert (os.environ["VLLM_ONE"], os.environ["VLLM_OTHER"]) == ("theirs", "ours")
    assert "VLLM_OTHER" not in os.environ


@pytest.mark.parametrize("serves", [True, False])
def test_the_second_model_runner_is_chosen_where_vllm_can_configure_it(monkeypatch, serves):
    monkeypatch.delenv(SECOND_RUNNER, raising=False)
    asked = []

    class Arguments:
        def create_engine_config(self):
            asked.append(os.environ[SECOND_RUNNER])
            if not serves:
                raise ValueError("Model Runner V2 does not yet support it")

    assert _has_second_runner(Arguments(), place(0)) == serves
    assert asked == ["1"] and SECOND_RUNNER not in os.environ


def test_engines_of_one_machine_write_their_compiled_graphs_to_different_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    found = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with place(0).environment():
            found[rank] = os.environ.get("VLLM_CACHE_ROOT")
    assert found == {"0": None, "1": str(tmp_path / "vllm" / "local-rank-1")}  # None: vLLM's own choice
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/somewhere")
    with place(0).environment():
        assert os.environ["VLLM_CACHE_ROOT"] == "/somewhere/local-rank-1"


def test_parts_that_wait_for_the_last_one_do_so_on_the_workers_own_device(monkeypatch):
    """With tensor parallelism the second worker is sent memory of another GPU than its own."""
    loaded = []
    receiver = worker.WeightReceiver()
    receiver.device = torch.device("meta")  # stands for a GPU that is not the sender's
    receiver.reload_weights = lambda weights_iterator: loaded.extend(weights_iterator)
    sent = torch.ones(3)
    monkeypatch.setattr(worker, "unpacked", lambda message, device: [("weight", sent)])
    receiver.uncollapse_receive(b"", False, True)
    ((_, staged),) = receiver.uncollapse_staged
    assert staged.device == receiver.device
    receiver.uncollapse_receive(b"", False, False)
    (_, (_, staged)) = receiver.uncollapse_staged
    sent.zero_()  # the sender goes on
    assert staged.device.type == "cpu" and staged.tolist() == [1, 1, 1]
    receiver.uncollapse_receive(b"", True, True)
    assert len(loaded) == 3 and receiver.uncollapse_staged == []
