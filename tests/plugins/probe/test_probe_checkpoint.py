"""Finding and loading checkpoints: ours, the Hugging Face Trainer's, DeepSpeed's, and broken ones."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import uncollapse
from safetensors.torch import load_file, save_file
from uncollapse.core.errors import RequestError
from uncollapse.plugins.probe.checkpoint.adam_state import read_adam_state
from uncollapse.plugins.probe.checkpoint.load import digest, load_checkpoint
from uncollapse.plugins.probe.legacy_keys import backbone_path
from uncollapse.plugins.training.processes import local_rank

sys.path.insert(0, str(Path(__file__).parent))
import probe_deepspeed_script as script

LORA = "model.lora={rank: 4, dropout: 0.1}"


@pytest.fixture(scope="module")
def runs(bandit, tmp_path_factory):
    """Runs of two steps of our own trainer: with an adapter, of all weights, and in bfloat16."""
    directory = tmp_path_factory.mktemp("runs")
    overrides = {
        "adapter": (LORA, "trainer.save_every=1"),
        "full": (),
        "bfloat16": ("model.dtype=bfloat16", "trainer.zero_stage=1"),
    }
    common = ("trainer.steps=2", "advantage=grpo", "validation.every=0")
    for name, changes in overrides.items():
        uncollapse.train(uncollapse.compose(bandit, (*common, *changes)), directory / name)
    return directory


def copy(source, target):
    shutil.copytree(source, target)
    return target


def test_an_adapter_of_our_trainer(runs, bandit):
    checkpoint = runs / "adapter" / "checkpoints" / "step_2"
    loaded = load_checkpoint(checkpoint, temperature=0.7)
    assert loaded.adapter and not loaded.policy.training and loaded.policy.temperature == 0.7
    assert {p.dtype for p in loaded.policy.parameters()} == {torch.float32}
    assert all(module.p == 0 for module in loaded.policy.modules() if isinstance(module, torch.nn.Dropout))
    trained = {name for name, p in loaded.policy.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in loaded.policy.named_parameters() if "lora_" in name}
    saved = load_file(checkpoint / "model" / "adapter_model.safetensors")
    assert len(saved) == len(trained)
    for name, tensor in saved.items():
        key = f"model.{name.removesuffix('.weight')}.default.weight"
        assert torch.equal(dict(loaded.policy.named_parameters())[key], tensor)
    assert loaded.notes == (f"base model: {bandit['model']['path']}, from adapter_config.json",)
    assert loaded.tokenizer.encode("go") == loaded.tokenizer.encode("go")
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    raw = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    assert state.base_lr == 1e-3 and state.coverage.fraction == 1 and state.coverage.matched == len(trained)
    for name in trained:
        values = raw["state"][name.removeprefix("model.")]
        assert torch.equal(state.exp_avg[name], values["exp_avg"])
        assert torch.equal(state.exp_avg_sq[name], values["exp_avg_sq"])
        assert state.step[name] == float(values["step"]) > 0
        assert state.settings[name].betas == (0.9, 0.999) and state.settings[name].weight_decay == 0.01


def test_the_adapter_is_active_and_changes_the_distribution(runs):
    policy = load_checkpoint(runs / "adapter").policy
    tokens = torch.arange(1, 9)[None]
    adapted = policy.model(input_ids=tokens).logits
    with policy.model.disable_adapter():
        assert not torch.allclose(policy.model(input_ids=tokens).logits, adapted)


def test_every_spelling_of_a_path_gives_the_same_checkpoint(runs, tmp_path):
    run = runs / "adapter"
    checkpoint = run / "checkpoints" / "step_2"
    (tmp_path / "step_latest").symlink_to(checkpoint)
    spellings = (
        run,
        checkpoint,
        f"{checkpoint}/",
        checkpoint / "model",
        f"{checkpoint}/model/",
        tmp_path / "step_latest",
    )
    loaded = [load_checkpoint(path) for path in spellings]
    assert {each.directory for each in loaded} == {checkpoint.resolve()}
    assert len({each.weights_digest for each in loaded}) == 1
    earlier = load_checkpoint(run / "checkpoints" / "step_1")
    assert earlier.weights_digest != loaded[0].weights_digest


def test_a_full_model_trains_all_of_it_and_tied_embeddings_count_once(runs):
    loaded = load_checkpoint(runs / "full")
    assert not loaded.adapter and loaded.notes == ()
    parameters = dict(loaded.policy.named_parameters())
    assert all(parameter.requires_grad for parameter in parameters.values())
    assert "model.lm_head.weight" not in parameters
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    assert state.coverage.matched == len(parameters)
    for name, tensor in load_file(loaded.model_path / "model.safetensors").items():
        assert torch.equal(parameters[f"model.{name}"], tensor)


def test_bfloat16_weights_are_replaced_by_the_master_weights(runs, tmp_path):
    checkpoint = runs / "bfloat16" / "checkpoints" / "step_2"
    loaded = load_checkpoint(checkpoint)
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    files = load_file(checkpoint / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in files.values()} == {torch.bfloat16}
    differ = False
    for name, parameter in loaded.policy.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, saved["master"][name.removeprefix("model.")])
        differ |= not torch.equal(parameter, files[name.removeprefix("model.")].float())
    assert differ
    assert loaded.notes == (
        "weights stored as bfloat16 are used as float32; what trains has the weights that DeepSpeed or the optimizer "
        "kept",
    )
    # without master copies the stored weights are what there is
    other = copy(checkpoint, tmp_path / "other")
    (other / "state.json").unlink()
    torch.save({**saved, "master": {}}, other / "optimizer.pt")
    upcast = load_checkpoint(other)
    assert upcast.notes == ("weights stored as bfloat16 are used as float32",)
    for name, parameter in upcast.policy.named_parameters():
        assert torch.equal(parameter, files[name.removeprefix("model.")].float())
    torch.save({**saved, "master": {"other.weight": torch.ones(1)}}, other / "optimizer.pt")
    with pytest.raises(RequestError, match=r"disagree on 1 parameters, e\.g\. other\.weight"):
        load_checkpoint(other)


def test_the_digest_sees_every_weight_and_reading_changes_none(runs):
    loaded = load_checkpoint(runs / "full")
    read_adam_state(loaded.optimizer_path, loaded.policy)
    assert digest(loaded.policy) == loaded.weights_digest
    last = list(loaded.policy.parameters())[-1]
    with torch.no_grad():
        last[-1] += 1e-7 + last[-1].abs() * 1e-6
    assert digest(loaded.policy) != loaded.weights_digest


# --- others' checkpoints --------------------------------------------------------------------------------------------


def flat(runs, target, run="adapter"):
    """The layout of the Hugging Face Trainer and TRL: adapter or model, tokenizer and optimizer side by side."""
    checkpoint = runs / run / "checkpoints" / "step_2"
    copy(checkpoint / "model", target)
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    names = saved["param_groups"][0]["params"]
    state = {i: saved["state"][name] for i, name in enumerate(names)}
    groups = [{**saved["param_groups"][0], "params": list(range(len(names)))}]
    torch.save({"state": state, "param_groups": groups}, target / "optimizer.pt")
    return target


def test_everything_side_by_side(runs, tmp_path):
    path = flat(runs, tmp_path / "checkpoint-2")
    loaded, ours = load_checkpoint(path), load_checkpoint(runs / "adapter")
    assert loaded.model_path == loaded.directory == path and loaded.weights_digest == ours.weights_digest
    one, other = (read_adam_state(each.optimizer_path, each.policy) for each in (loaded, ours))
    assert one.coverage.by == "the parameters that train in order" and other.coverage.by == "by name"
    assert all(torch.equal(one.exp_avg_sq[name], tensor) for name, tensor in other.exp_avg_sq.items())


@pytest.mark.parametrize("adapter", [True, False])
def test_a_checkpoint_of_the_hugging_face_trainer(bandit, tmp_path, adapter):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

    base = bandit["model"]["path"]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=2, per_device_train_batch_size=2, learning_rate=3e-4, weight_decay=0.1,
        report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    rows = [{"input_ids": [i + 1, 2, 3, 4], "labels": [i + 1, 2, 3, 4]} for i in range(4)]
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(base))
    trainer.train()
    loaded = load_checkpoint(tmp_path / "checkpoint-2")
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert loaded.adapter == adapter and state.base_lr == 3e-4 and len(state.step) == len(trained)
    for name, parameter in trained.items():
        assert torch.equal(loaded.policy.get_parameter(f"model.{name}"), parameter)
        assert torch.equal(state.exp_avg[f"model.{name}"], optimizer.state[parameter]["exp_avg"])
        assert torch.equal(state.exp_avg_sq[f"model.{name}"], optimizer.state[parameter]["exp_avg_sq"])


def test_where_the_optimizer_state_is_looked_for(runs, tmp_path):
    path = flat(runs, tmp_path / "out" / "checkpoint-2")
    (path / "optimizer.pt").rename(tmp_path / "out" / "optimizer.pt")
    assert load_checkpoint(path).optimizer_path == tmp_path / "out" / "optimizer.pt"
    (tmp_path / "out" / "optimizer.pt").rename(tmp_path / "else.pt")
    assert load_checkpoint(path, optimizer_path=tmp_path / "else.pt").optimizer_path == tmp_path / "else.pt"
    with pytest.raises(RequestError) as error:
        load_checkpoint(path)
    for place in (path / "optimizer.pt", tmp_path / "out" / "optimizer.pt"):
        assert str(place) in str(error.value)
    (flat(runs, tmp_path / "final") / "optimizer.pt").unlink()
    nested = flat(runs, tmp_path / "final" / "checkpoint-9")
    with pytest.raises(RequestError, match=f"give {nested}, or the path"):
        load_checkpoint(tmp_path / "final")
    with pytest.raises(RequestError, match=r"looked for .*nowhere\.pt"):
        load_checkpoint(path, optimizer_path=tmp_path / "nowhere.pt")


def test_where_the_base_model_comes_from(runs, bandit, tmp_path):
    base = bandit["model"]["path"]
    path = flat(runs, tmp_path / "checkpoint-2")
    settings = json.loads((path / "adapter_config.json").read_text())

    def record(name):
        (path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": name}))

    loaded = load_checkpoint(path, backbone="qwen2_5_15")
    assert loaded.notes == (f"base model: {base}, from adapter_config.json; the backbone qwen2_5_15 was not used",)
    record("/gone/base")
    assert load_checkpoint(path, backbone=base).notes == (f"base model: {base}, from backbone",)
    with pytest.raises(RequestError, match="does not say what its base model is"):
        load_checkpoint(path)
    # in a run, the run's own configuration knows
    run = copy(runs / "adapter", tmp_path / "run")
    shutil.copy(path / "adapter_config.json", run / "checkpoints" / "step_2" / "model")
    (run / "checkpoints" / "step_2" / "state.json").unlink()
    loaded = load_checkpoint(run / "checkpoints" / "step_2")
    assert loaded.notes == (f"base model: {base}, from the run's config.yaml",)
    assert loaded.weights_digest == load_checkpoint(runs / "adapter").weights_digest


def test_a_tokenizer_may_have_no_chat_template_and_may_be_the_bases(runs, bandit, tmp_path):
    path = flat(runs, tmp_path / "checkpoint-2")
    (path / "chat_template.jinja").unlink()
    assert load_checkpoint(path).tokenizer.chat_template is None
    for file in path.glob("token*"):
        file.unlink()
    tokenizer = load_checkpoint(path).tokenizer
    assert tokenizer.chat_template and tokenizer.name_or_path == bandit["model"]["path"]


def test_quantisation_that_differs_is_noted(runs, tmp_path):
    path = flat(runs, tmp_path / "checkpoint-2")
    (path / "training_info.json").write_text(json.dumps({"step": 2, "model_config": {"use_qlora": True}}))
    assert "quantised in training and is not here" in load_checkpoint(path).notes[-1]
    (path / "training_info.json").write_text(json.dumps({"step": 2, "model_config": {"use_qlora": False}}))
    assert len(load_checkpoint(path).notes) == 1
    with pytest.raises(RequestError, match="4 bits needs a GPU"):
        load_checkpoint(path, use_qlora=True)
    with pytest.raises(RequestError, match="no adapter to train over"):
        load_checkpoint(runs / "full", use_qlora=True)


def test_names_of_backbones():
    assert backbone_path("qwen2_5_15") == "Qwen/Qwen2.5-1.5B"
    assert backbone_path("someone/model") == "someone/model" and backbone_path("/models/x") == "/models/x"


# --- DeepSpeed's own files ------------------------------------------------------------------------------------------


def deepspeed_checkpoint(model, directory, stage, dtype):
    """Two steps of a real engine with two parameter groups; returns the moments that its optimizer has."""
    lent = local_rank.lend(0)
    try:
        return two_steps(model, directory, stage, dtype)
    finally:
        local_rank.take_back(lent)


def two_steps(model, directory, stage, dtype):
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    from uncollapse.plugins.training.processes.ranks import start_ranks

    start_ranks()
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(verbose=False)
    groups = [
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.requires_grad and p.ndim == 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    for step in range(2):
        tokens = torch.arange(step, step + 9)[None]
        engine.backward(engine(input_ids=tokens, labels=tokens).loss)
        engine.step()
    engine.save_checkpoint(str(directory))
    trained = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    if stage == 0:
        moments = {name: optimizer.state[parameter] for name, parameter in trained.items()}
        return {name: (trained[name].detach(), m["exp_avg"], m["exp_avg_sq"]) for name, m in moments.items()}
    if stage < 3:  # its own linking stops after the first parameter group
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
    return {
        name: (
            safe_get_full_fp32_param(p),
            safe_get_full_optimizer_state(p, "exp_avg"),
            safe_get_full_optimizer_state(p, "exp_avg_sq"),
        )
        for name, p in trained.items()
    }


@pytest.mark.parametrize(
    ("stage", "dtype"), [(0, torch.float32), (1, torch.float32), (2, torch.bfloat16), (3, torch.float32)]
)
def test_a_full_model_that_deepspeed_saved(bandit, tmp_path, stage, dtype):
    from transformers import AutoModelForCausalLM

    base = bandit["model"]["path"]
    right = deepspeed_checkpoint(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), tmp_path / "ds", stage, dtype)
    loaded = load_checkpoint(tmp_path / "ds", backbone=base)
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    assert loaded.optimizer_path == tmp_path / "ds" / "global_step2"
    assert state.coverage.matched == len(right) == len(dict(loaded.policy.named_parameters()))
    for name, (weight, first, second) in right.items():
        key = f"model.{name}"
        assert torch.equal(loaded.policy.get_parameter(key), weight)
        assert torch.equal(state.exp_avg[key], first) and torch.equal(state.exp_avg_sq[key], second)
        assert state.settings[key].weight_decay == (0.1 if weight.ndim > 1 else 0.0)
        assert state.step[key] == 2
    assert state.base_lr == 1e-3
    again = load_checkpoint(tmp_path / "ds" / "global_step2", backbone=base)
    assert again.weights_digest == loaded.weights_digest


def test_an_adapter_that_deepspeed_trained_and_the_trainer_saved(bandit, tmp_path):
    """The layout of the Hugging Face Trainer with DeepSpeed: the adapter's files beside the shards."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = bandit["model"]["path"]
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(r=2, task_type="CAUSAL_LM")
    )
    right = deepspeed_checkpoint(model, tmp_path / "checkpoint-2", 2, torch.float32)
    model.save_pretrained(tmp_path / "checkpoint-2")
    loaded = load_checkpoint(tmp_path / "checkpoint-2")
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    assert loaded.adapter and state.coverage.matched == len(right) == 8
    for name, (weight, first, _) in right.items():
        assert torch.equal(loaded.policy.get_parameter(f"model.{name}"), weight)
        assert torch.equal(state.exp_avg[f"model.{name}"], first)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_the_shards_of_two_ranks_are_what_one_process_computes(bandit, tmp_path, stage):
    base = bandit["model"]["path"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, script.__file__, str(stage), base, str(tmp_path / "ds")]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(command, env={**shared, "RANK": rank, "LOCAL_RANK": rank, "DS_ACCELERATOR": "cpu"})
        for rank in "01"
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    model = script.adapter(base)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    for loss in script.losses(model):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded = load_checkpoint(tmp_path / "ds")
    state = read_adam_state(loaded.optimizer_path, loaded.policy)
    assert len(state.step) == len(trained) == 8
    for name, parameter in trained.items():
        right = optimizer.state[parameter]
        torch.testing.assert_close(
            loaded.policy.get_parameter(f"model.{name}"), parameter, rtol=0, atol=1e-5
        )  # of steps of 1e-3
        for key in ("exp_avg", "exp_avg_sq"):
            found = getattr(state, key)[f"model.{name}"]
            assert (found - right[key]).norm() <= 1e-5 * right[key].norm(), (key, name)
        assert state.step[f"model.{name}"] == 2


def test_damaged_shards(tmp_path, bandit):
    (tmp_path / "ds" / "global_step2").mkdir(parents=True)
    (tmp_path / "ds" / "latest").write_text("global_step2")
    for name in ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"):
        (tmp_path / "ds" / "global_step2" / name).write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be converted"):
        load_checkpoint(tmp_path / "ds", backbone=bandit["model"]["path"])


# --- wrong requests -------------------------------------------------------------------------------------------------


def test_no_checkpoint(runs, tmp_path):
    with pytest.raises(RequestError, match="no such checkpoint directory"):
        load_checkpoint(tmp_path / "nothing")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(RequestError, match=r"neither an adapter nor a model: there is checkpoint-7, notes\.txt"):
        load_checkpoint(tmp_path)
    run = copy(runs / "full", tmp_path / "run")
    for state in run.glob("checkpoints/step_*/state.json"):
        state.unlink()
    with pytest.raises(RequestError, match=r"no complete checkpoint \(step_2: state.json is missing\)"):
        load_checkpoint(run)


def test_a_damaged_checkpoint_is_not_used(runs, tmp_path):
    run = copy(runs / "adapter", tmp_path / "run")
    file = run / "checkpoints" / "step_2" / "model" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RequestError, match=r"damaged: model/adapter_model\.safetensors has"):
        load_checkpoint(run / "checkpoints" / "step_2")
    assert load_checkpoint(run).directory == run / "checkpoints" / "step_1"


def test_weights_that_do_not_fit_are_refused(runs, bandit, tmp_path):
    path = flat(runs, tmp_path / "adapter")
    weights = load_file(path / "adapter_model.safetensors")
    first, second, *_ = weights
    save_file({name: tensor for name, tensor in weights.items() if name != first}, path / "adapter_model.safetensors")
    with pytest.raises(RequestError, match="disagree on 1 tensors"):
        load_checkpoint(path)
    save_file({**weights, second: weights[second][:, :-1].contiguous()}, path / "adapter_model.safetensors")
    with pytest.raises(RequestError, match="the weights cannot be loaded"):
        load_checkpoint(path)
    (path / "adapter_model.safetensors").write_bytes(b"\x05")
    with pytest.raises(RequestError, match="the weights cannot be loaded"):
        load_checkpoint(path)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"no adapter_model\.safetensors"):
        load_checkpoint(path)

    path = flat(runs, tmp_path / "full", "full")
    weights = load_file(path / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RequestError, match=r"no weights for 1 parameters, e\.g\. model\.norm\.weight"):
        load_checkpoint(path)


def test_a_full_model_without_weights_is_not_replaced_by_its_base(runs, bandit, tmp_path):
    path = flat(runs, tmp_path / "full", "full")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"no model\.safetensors"):
        load_checkpoint(path, backbone=bandit["model"]["path"])


def test_only_lora_adapters(runs, tmp_path):
    path = flat(runs, tmp_path / "adapter")
    settings = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**settings, "peft_type": "PROMPT_TUNING"}))
    with pytest.raises(RequestError, match="PROMPT_TUNING, not LoRA"):
        load_checkpoint(path)
    (path / "adapter_config.json").write_text("{")
    with pytest.raises(RequestError, match="the file is damaged"):
        load_checkpoint(path)
