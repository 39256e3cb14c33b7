"""Checkpoints that other trainers wrote, each by the real library, are probed with an environment or a data set."""

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)
from uncollapse.core.errors import RequestError
from uncollapse.plugins.probe import OfflineEntropyProbe
from uncollapse.plugins.probe.checkpoint.adam_state import read_adam_state
from uncollapse.plugins.probe.checkpoint.files import find_checkpoint
from uncollapse.plugins.probe.checkpoint.load import load_checkpoint
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.next_step import step_lines
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.step.batch import Batch

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
sys.path.insert(0, str(Path(__file__).parent))
import probe_ranks_script as script
from rollout_worlds import tiny_model, tokenizer

RATE = 3e-3
SMALL = {"B_E": 4, "B_U": 2, "G": 2}
LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
ROWS = [{"input_ids": [i + 1, 2, 3, 4], "labels": [i + 1, 2, 3, 4]} for i in range(4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    words = tokenizer()
    words.pad_token = words.eos_token
    tiny_model(len(words)).save_pretrained(directory)
    words.save_pretrained(directory)
    return directory


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def load(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return get_peft_model(model, LORA) if adapter else model


def by_trainer(base, directory, adapter, model=None, **more):
    """What ``Trainer`` saves after 2 of 4 steps; with the model and the optimizer that it had then."""
    model = model or load(base, adapter)
    words = tokenizer()
    words.pad_token = words.eos_token
    arguments = TrainingArguments(
        str(directory), max_steps=2, save_steps=2, per_device_train_batch_size=2, learning_rate=RATE, weight_decay=0.1,
        lr_scheduler_type="constant", report_to=[], use_cpu=True, disable_tqdm=True, logging_strategy="no", **more,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=ROWS, processing_class=words)
    trainer.train()
    return directory / "checkpoint-2", model, trainer.optimizer


def by_trl(base, directory, adapter):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoTokenizer

    arguments = trl.GRPOConfig(
        str(directory), max_steps=2, save_steps=2, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=6, learning_rate=RATE, lr_scheduler_type="constant", report_to=[], use_cpu=True,
        disable_tqdm=True, logging_strategy="no", bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        load(base, False),
        reward_funcs=lambda completions, **_: [float(len(text) % 3) for text in completions],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["go Up", "Down", "a", "b"]}),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LORA if adapter else None,
    )
    trainer.train()
    return directory / "checkpoint-2", trainer.model, trainer.optimizer


def by_peft(base, directory, adapter, file="optimizer.pt", **options):
    """A loop of one's own, with PEFT and torch alone."""
    model = load(base, adapter)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, **options)
    for row in ROWS:
        model(**{name: torch.tensor([value]) for name, value in row.items()}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    torch.save(optimizer.state_dict(), directory / file)
    return directory, model, optimizer


MAKERS = [
    pytest.param(by_trainer, False, id="Trainer, full"),
    pytest.param(by_trainer, True, id="Trainer, adapter"),
    pytest.param(by_peft, True, id="PEFT"),
    pytest.param(by_trl, True, id="TRL, adapter", marks=pytest.mark.slow),
    pytest.param(by_trl, False, id="TRL, full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("make", "adapter"), MAKERS)
def test_it_is_probed_with_an_environment_and_with_a_data_set(make, adapter, base, questions, tmp_path):
    checkpoint, model, optimizer = make(base, tmp_path / "out", adapter)
    config = {
        "batch_config": {**SMALL, "environment": "bandit"},
        "generation": {"max_new_tokens": 4},
        "importance": {"enabled": True},
        "probe_rework": {"master_seed": 1},
    }
    probe = OfflineEntropyProbe(config)
    session = probe.session(checkpoint)
    assert session.loaded.adapter == adapter and session.eta == RATE
    # the direction is the step that the library's own optimizer takes from where it stands
    sample = script.rewarded(session.draw_U())
    step = session.step(sample)
    inner = getattr(optimizer, "optimizer", optimizer)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in own.items()}
    for name, parameter in own.items():
        parameter.grad = step.gradient[f"model.{name}"].clone()
    inner.step()
    for name, parameter in own.items():
        taken = (parameter.detach() - before[name]) / RATE
        torch.testing.assert_close(step.direction[f"model.{name}"], taken, rtol=1e-3, atol=2e-4, msg=name)
    found = probe.run(session, 4, U=sample, step=step)
    assert found["deltaH1"] and found["deltaH_true"] and found["learning_rate"] == RATE
    assert "no run of this package wrote the checkpoint" in "\n".join(step_lines(found["step"]))
    config["batch_config"] = {**SMALL, "dataset_name": str(questions)}
    found = OfflineEntropyProbe(config).run_mixed_probe(checkpoint)
    assert found["deltaH1"] and found["batches"]["E"]["prompts"] == 4


def test_without_environment_or_data_set_the_request_is_refused(base, tmp_path):
    checkpoint, _, _ = by_peft(base, tmp_path / "own", True)
    with pytest.raises(RequestError, match="nothing says what to sample"):
        OfflineEntropyProbe({"batch_config": SMALL}).session(checkpoint)


def test_a_template_leaves_the_rate_to_what_the_checkpoint_has_recorded(base, tmp_path):
    checkpoint, _, _ = by_peft(base, tmp_path / "own", True)
    over = {"batch_config.environment": "bandit", "batch_config.dataset_name": None}
    probe = OfflineEntropyProbe.from_config_file("configs/test_deltaH1.yaml", over)
    assert probe.session(checkpoint).eta == RATE
    probe = OfflineEntropyProbe.from_config_file("configs/test_deltaH1.yaml", {**over, "learning_rate": 1e-5})
    assert probe.session(checkpoint).eta == 1e-5
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    saved["param_groups"][0]["lr"] = 0.0
    torch.save(saved, checkpoint / "optimizer.pt")
    probe = OfflineEntropyProbe.from_config_file("configs/test_deltaH1.yaml", over)
    assert probe.session(checkpoint).eta == 2e-6  # the template's, where nothing else is known


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"amsgrad": True}, {"capturable": False}])
def test_every_kind_of_torchs_adamw_is_read(options, base, tmp_path):
    checkpoint, model, optimizer = by_peft(base, tmp_path / "own", True, file="optimizer.bin", **options)
    files = find_checkpoint(checkpoint)
    assert files.optimizer_path == checkpoint / "optimizer.bin"  # as accelerate calls it
    policy = Policy(model, 1.0)
    state = read_adam_state(files.optimizer_path, policy)
    for name, parameter in trained(policy).items():
        assert torch.equal(state.exp_avg_sq[name], optimizer.state[parameter]["exp_avg_sq"])
    assert (state.max_exp_avg_sq is not None) == bool(options.get("amsgrad"))


def test_a_layer_norm_whose_name_does_not_say_so_does_not_decay(tmp_path):
    """GPT-2 calls it ln_1; the Trainer goes by its type, and mixes vectors that decay with those that do not."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=32, n_embd=8, n_layer=2, n_head=2))
    model.register_parameter("scale", nn.Parameter(torch.ones(8)))
    _, model, optimizer = by_trainer(None, tmp_path / "out", False, model, save_strategy="no")
    inner = getattr(optimizer, "optimizer", optimizer)
    with torch.no_grad():
        inner.state[model.scale] = {"step": torch.tensor(2.0), "exp_avg": torch.ones(8), "exp_avg_sq": torch.ones(8)}
    torch.save(inner.state_dict(), tmp_path / "optimizer.pt")
    state = read_adam_state(tmp_path / "optimizer.pt", Policy(model, 1.0))
    decays = {name.removeprefix("model."): settings.weight_decay for name, settings in state.settings.items()}
    assert decays["transformer.h.0.ln_1.weight"] == 0 and decays["scale"] == decays["transformer.wte.weight"] == 0.1


def test_groups_that_could_stand_in_another_order_are_refused_without_names(base, tmp_path):
    """A rate for each layer, from the top: every shape fits in the wrong order as well."""
    model = load(base, True)
    layers = [[p for n, p in model.named_parameters() if p.requires_grad and f"layers.{at}." in n] for at in (1, 0)]
    optimizer = torch.optim.AdamW([{"params": group} for group in layers], lr=RATE)
    sum(p.square().sum() + p.sum() for group in layers for p in group).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(RequestError, match="in more than one way"):
        read_adam_state(tmp_path / "optimizer.pt", Policy(model, 1.0))
    names = [n for at in (1, 0) for n, p in model.named_parameters() if p.requires_grad and f"layers.{at}." in n]
    (tmp_path / "optimizer_param_names.json").write_text(json.dumps(names))
    state = read_adam_state(tmp_path / "optimizer.pt", Policy(model, 1.0))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(state.exp_avg[f"model.{name}"], optimizer.state[parameter]["exp_avg"])


OTHERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "RMSprop": lambda p: torch.optim.RMSprop(p),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_optimizers_are_refused_by_name(name, tmp_path):
    module = nn.Linear(4, 3)
    optimizer = OTHERS[name](module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(RequestError, match=f"not the state of Adam, but of .*{name}"):
        read_adam_state(tmp_path / "optimizer.pt", module)


def test_an_8_bit_optimizer_is_refused_by_name(tmp_path):
    moments = {"step": 1, "state1": torch.zeros(12, dtype=torch.uint8), "state2": torch.zeros(12, dtype=torch.uint8)}
    group = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0, "params": [0]}
    torch.save({"state": {0: moments}, "param_groups": [group]}, tmp_path / "optimizer.pt")
    with pytest.raises(RequestError, match="8-bit"):
        read_adam_state(tmp_path / "optimizer.pt", nn.Linear(4, 3, bias=False))


def test_what_lies_elsewhere_is_named(base, tmp_path):
    """The directory of all checkpoints, a dictionary around the state, and FSDP's shards."""
    checkpoint, model, _ = by_peft(base, tmp_path / "out" / "checkpoint-10", True)
    (tmp_path / "out" / "checkpoint-9").mkdir()
    (tmp_path / "out" / "checkpoint-9" / "adapter_config.json").write_text("{}")
    with pytest.raises(RequestError) as refusal:
        find_checkpoint(tmp_path / "out")
    assert refusal.value.fix == f"give {checkpoint}"
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    torch.save({"epoch": 3, "optimizer_state_dict": saved}, checkpoint / "optimizer.pt")
    with pytest.raises(RequestError, match="state, param_groups") as refusal:
        read_adam_state(checkpoint / "optimizer.pt", Policy(model, 1.0))
    assert refusal.value.fix == "save its entry 'optimizer_state_dict' alone"
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer_0").mkdir()
    (checkpoint / "optimizer_0" / "__0_0.distcp").touch()
    with pytest.raises(RequestError, match="sharded by FSDP"):
        find_checkpoint(checkpoint)


@pytest.mark.parametrize("adapter", [False, True])
def test_weights_that_are_no_numbers_are_named(adapter, base, tmp_path):
    checkpoint, _, _ = by_peft(base, tmp_path / "own", adapter)
    (file,) = checkpoint.glob("*.safetensors")
    tensors = load_file(file)
    name = max(name for name in tensors if "q_proj" in name)
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(RequestError, match="no finite numbers") as refusal:
        load_checkpoint(checkpoint)
    assert name.removeprefix("base_model.model.").removesuffix(".weight") in str(refusal.value).replace(".default", "")


def test_an_adapter_on_the_output_embedding_counts_or_is_named(tmp_path):
    words, base = tokenizer(), tmp_path / "untied"
    config = tiny_model(len(words)).config
    config.tie_word_embeddings = False
    Qwen2ForCausalLM(config).save_pretrained(base)
    words.save_pretrained(base)
    lora = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(tmp_path / "own")
    words.save_pretrained(tmp_path / "own")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    torch.save(optimizer.state_dict(), tmp_path / "own" / "optimizer.pt")
    try:
        policy = load_checkpoint(tmp_path / "own").policy
    except RequestError as refusal:
        text = str(refusal)
    else:
        tokens, mask = torch.tensor([[1, 2, 3]]), torch.tensor([[False, True, True]])
        own = policy(Batch(tokens=tokens, mask=mask, lengths=torch.tensor([3])))["logprobs"][0, 1:]
        logits = model(input_ids=tokens).logits.log_softmax(-1)[0, :-1]
        text = "lm_head" if torch.allclose(own, logits.gather(-1, tokens[0, 1:, None])[:, 0], atol=1e-4) else "wrong"
    assert "lm_head" in text and "scales its logits" not in text
