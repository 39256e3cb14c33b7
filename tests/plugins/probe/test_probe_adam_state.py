"""Adam's state by parameter: every layout that trainers write, and every file that must be refused."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from uncollapse.core.errors import RequestError
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, read_adam_state
from uncollapse.plugins.probe.checkpoint.load import digest
from uncollapse.plugins.probe.checkpoint.optimizer_layout import canonical
from uncollapse.plugins.training.networks.models import Policy

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_worlds import tiny_model


def lora_policy():
    torch.manual_seed(1)
    model = get_peft_model(tiny_model(61), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    return Policy(model, 1.0).eval()


def full_policy():
    return Policy(tiny_model(61), 1.0).eval()


def train(policy, groups, steps=2, **settings):
    """Real AdamW steps on a language model loss."""
    optimizer = torch.optim.AdamW(groups, lr=1e-3, **settings)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        gradients(policy, generator)
        optimizer.step()
    return optimizer


def gradients(policy, generator):
    tokens = torch.randint(0, 61, (2, 12), generator=generator)
    policy.zero_grad()
    policy.model(input_ids=tokens, labels=tokens).loss.backward()


def trainable(policy):
    return {name: p for name, p in policy.named_parameters() if p.requires_grad}


def check(state, optimizer, policy):
    """Every moment is, bit for bit, that of the optimizer for the parameter of this name."""
    assert state.exp_avg.keys() == state.exp_avg_sq.keys() == state.step.keys() == trainable(policy).keys()
    assert state.settings.keys() == state.step.keys()
    for name, parameter in trainable(policy).items():
        moments = optimizer.state[parameter]
        assert torch.equal(state.exp_avg[name], moments["exp_avg"]), name
        assert torch.equal(state.exp_avg_sq[name], moments["exp_avg_sq"]), name
        assert state.step[name] == float(moments["step"]) == 2
        assert state.exp_avg[name].dtype == state.exp_avg_sq[name].dtype == torch.float32
    assert state.coverage.fraction == 1 and state.coverage.unmatched == ()


def saved(tmp_path, state, names=None):
    torch.save(state, tmp_path / "optimizer.pt")
    if names is not None:
        (tmp_path / "optimizer_param_names.json").write_text(json.dumps(names))
    return tmp_path / "optimizer.pt"


# --- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["all parameters", "what trains", "two groups, the second empty"])
def test_an_adapters_state_by_position(tmp_path, layout):
    policy = lora_policy()
    some = list(trainable(policy).values())
    groups = {
        "all parameters": list(policy.parameters()),
        "what trains": some,
        "two groups, the second empty": [{"params": some}, {"params": [], "weight_decay": 0.0}],
    }[layout]
    optimizer = train(policy, groups)
    before = digest(policy)
    state = read_adam_state(saved(tmp_path, optimizer.state_dict()), policy)
    assert digest(policy) == before and all(parameter.requires_grad for parameter in trainable(policy).values())
    check(state, optimizer, policy)
    listed = len(list(policy.parameters())) if layout == "all parameters" else len(some)
    assert (state.coverage.matched, state.coverage.saved) == (len(some), listed)
    assert state.base_lr == 1e-3 and state.max_exp_avg_sq is None


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.sampled_from(["", "module.", "_orig_mod.module."]), st.booleans())
def test_names_undo_any_order(tmp_path_factory, random, prefix, nested):
    policy = lora_policy()
    order = list(trainable(policy).items())
    random.shuffle(order)
    optimizer = train(policy, [p for _, p in order])
    names = [prefix + name.removeprefix("model.").replace(".default", "") for name, _ in order]
    path = saved(tmp_path_factory.mktemp("state"), optimizer.state_dict(), [names] if nested else names)
    state = read_adam_state(path, policy)
    check(state, optimizer, policy)
    assert state.coverage.by == "by name"


def test_names_that_torch_saved_itself(tmp_path):
    policy = full_policy()
    optimizer = train(policy, list(reversed(list(policy.model.named_parameters()))))
    check(read_adam_state(saved(tmp_path, optimizer.state_dict()), policy), optimizer, policy)


def test_a_wrong_order_without_names_is_refused_by_name_and_shapes(tmp_path):
    policy = lora_policy()
    optimizer = train(policy, list(reversed(trainable(policy).values())))
    with pytest.raises(RequestError) as error:
        read_adam_state(saved(tmp_path, optimizer.state_dict()), policy)
    first = next(iter(trainable(policy)))
    assert f"exp_avg of {first} has shape (32, 4), the parameter has (4, 32)" in str(error.value)


def test_unmatched_frozen_tensors_do_not_matter_and_unmatched_trained_ones_go_by_position(tmp_path):
    policy = lora_policy()
    optimizer = train(policy, list(policy.parameters()))
    names = [name if p.requires_grad else f"<unmatched:{i}>" for i, (name, p) in enumerate(policy.named_parameters())]
    check(read_adam_state(saved(tmp_path, optimizer.state_dict(), names), policy), optimizer, policy)
    names = [f"<unmatched:{i}>" if "q_proj" in name else name for i, name in enumerate(names)]
    state = read_adam_state(saved(tmp_path, optimizer.state_dict(), names), policy)
    check(state, optimizer, policy)
    assert state.coverage.by == "all parameters in order"
    shifted = [*names[1:], names[0]]
    with pytest.raises(RequestError, match="would be"):
        read_adam_state(saved(tmp_path, optimizer.state_dict(), shifted), policy)


def test_names_of_another_number_are_refused(tmp_path):
    policy = lora_policy()
    optimizer = train(policy, list(policy.parameters()))
    with pytest.raises(RequestError, match="28 names are listed, and the optimizer has 54 tensors"):
        read_adam_state(saved(tmp_path, optimizer.state_dict(), list(trainable(policy))), policy)


@pytest.mark.parametrize("make", [lora_policy, full_policy])
def test_the_hugging_face_trainers_two_groups(tmp_path, make):
    """A real Trainer writes the checkpoint; its own optimizer says what is right."""
    from transformers import Trainer, TrainingArguments

    policy = make()
    policy.train()
    rows = [{"input_ids": [i + 1, 2, 3, 4], "labels": [i + 1, 2, 3, 4]} for i in range(4)]
    arguments = TrainingArguments(
        str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, save_steps=2, report_to=[],
        learning_rate=3e-4, weight_decay=0.1, use_cpu=True, disable_tqdm=True, warmup_steps=1, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(policy.model, arguments, train_dataset=rows)
    trainer.train()
    policy.eval()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    state = read_adam_state(checkpoint / "optimizer.pt", policy)
    check(state, optimizer, policy)
    assert state.base_lr == 3e-4  # the rate itself has decayed to zero
    decays = {name: settings.weight_decay for name, settings in state.settings.items()}
    for name, decay in decays.items():
        assert decay == (0.0 if name.endswith("bias") or "norm" in name else 0.1)
    assert make is lora_policy or set(decays.values()) == {0.0, 0.1}


def test_two_groups_that_fit_in_two_ways_are_refused(tmp_path):
    module = nn.ParameterDict({"norm": torch.ones(3), "scale": torch.ones(3)})
    optimizer = torch.optim.AdamW([{"params": [module["scale"]]}, {"params": [module["norm"]], "weight_decay": 0.0}])
    (module["norm"].sum() + module["scale"].square().sum()).backward()
    optimizer.step()
    with pytest.raises(RequestError, match="in more than one way"):
        read_adam_state(saved(tmp_path, optimizer.state_dict()), module)
    state = read_adam_state(saved(tmp_path, optimizer.state_dict(), ["scale", "norm"]), module)
    assert state.settings["norm"].weight_decay == 0 and torch.equal(state.exp_avg["norm"], torch.full((3,), 0.1))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("model.base_model.model.model.layers.0.q.lora_A.default.weight", "layers.0.q.lora_A.weight"),
        ("module.base_model.model.base_model.model.model.layers.0.q.lora_A.weight", "layers.0.q.lora_A.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
        ("transformer.h.0.attn.weight", "transformer.h.0.attn.weight"),
    ],
)
def test_canonical_names(name, plain):
    assert canonical(name) == plain


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_next_step_with_what_was_read_is_the_optimizers_own(tmp_path, amsgrad):
    policy = lora_policy()
    optimizer = train(policy, list(policy.parameters()), amsgrad=amsgrad, betas=(0.8, 0.99), eps=1e-6)
    state = read_adam_state(saved(tmp_path, optimizer.state_dict()), policy)
    twin = copy.deepcopy(policy)
    again = torch.optim.AdamW(
        [
            {"params": [p], "lr": state.base_lr, **{k: getattr(state.settings[n], k) for k in keys}}
            for keys in [("betas", "eps", "weight_decay", "amsgrad")]
            for n, p in trainable(twin).items()
        ]
    )
    loaded = again.state_dict()
    for index, name in enumerate(trainable(twin)):
        moments = {key: getattr(state, key)[name] for key in ("exp_avg", "exp_avg_sq")}
        largest = {"max_exp_avg_sq": state.max_exp_avg_sq[name]} if amsgrad else {}
        loaded["state"][index] = {"step": torch.tensor(state.step[name]), **moments, **largest}
    again.load_state_dict(loaded)
    for each in (policy, twin):
        gradients(each, torch.Generator().manual_seed(9))
    optimizer.step()
    again.step()
    for name, parameter in trainable(policy).items():
        assert torch.equal(parameter, trainable(twin)[name]), name
    assert state.settings[name] == AdamSettings((0.8, 0.99), 1e-6, 0.01, amsgrad)


def test_the_base_rate_is_the_initial_one_and_only_if_it_is_one(tmp_path):
    policy = lora_policy()
    state = train(policy, list(trainable(policy).values())).state_dict()
    for group, rate in (
        ({"lr": 0.0, "initial_lr": 2e-6}, 2e-6),
        ({"lr": 1e-6}, 1e-6),
        ({"lr": 0.0}, None),
        ({"lr": 1e-6, "initial_lr": 0.0}, None),
    ):
        state["param_groups"][0] = {k: v for k, v in state["param_groups"][0].items() if "lr" not in k} | group
        assert read_adam_state(saved(tmp_path, state), policy).base_lr == rate
    first, second = list(trainable(policy).values())[:2], list(trainable(policy).values())[2:]
    state = train(policy, [{"params": first, "lr": 1e-3}, {"params": second, "lr": 1e-4}]).state_dict()
    assert read_adam_state(saved(tmp_path, state), policy).base_lr is None


# --- what is refused ------------------------------------------------------------------------------------------------


def spoil(state, how):
    last = state["state"][max(state["state"])]
    if how == "shape":
        last["exp_avg_sq"] = last["exp_avg_sq"].T.contiguous()
    elif how == "no state":
        del state["state"][max(state["state"])]
    elif how == "no second moment":
        del last["exp_avg_sq"]
    elif how == "no step":
        del last["step"]
    elif how == "nan":
        last["exp_avg"][0] = float("nan")
    elif how == "negative":
        last["exp_avg_sq"][0] = -1.0
    elif how == "float16":
        last["exp_avg_sq"] = last["exp_avg_sq"].half()
    elif how == "zero":
        for moments in state["state"].values():
            moments["exp_avg_sq"].zero_()
    elif how == "never stepped":
        state["state"] = {}
    elif how == "coupled":
        state["param_groups"][0]["decoupled_weight_decay"] = False
    elif how == "maximize":
        state["param_groups"][0]["maximize"] = True
    elif how == "sgd":
        del state["param_groups"][0]["betas"]
    elif how == "no groups":
        del state["param_groups"]
    elif how == "fewer":
        state["param_groups"][0]["params"].pop()
    return state


REFUSED = {
    "shape": r"exp_avg_sq of model\.base_model.*lora_B.* has shape \(4, 32\), the parameter has \(32, 4\)",
    "no state": r"1 of the 28 parameters that train have no state, e\.g\. model\.base_model",
    "no second moment": r"has no exp_avg_sq; it has step, exp_avg",
    "no step": "has no step",
    "nan": "exp_avg of .* holds values that no optimizer makes",
    "negative": "exp_avg_sq of .* holds values that no optimizer makes",
    "float16": "is float16",
    "zero": "every second moment is zero",
    "never stepped": "has taken no step yet",
    "coupled": "coupled weight decay",
    "maximize": "maximize",
    "sgd": "not the state of Adam",
    "no groups": "no state of an optimizer",
    "fewer": r"it has 27 tensors without names; the model has 54, of which 28 train",
}


@pytest.fixture(scope="module")
def trained():
    policy = lora_policy()
    return policy, train(policy, list(trainable(policy).values())).state_dict()


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_refused(tmp_path, trained, how):
    policy, state = trained
    path = saved(tmp_path, spoil(copy.deepcopy(state), how))
    with pytest.raises(RequestError, match=REFUSED[how]) as error:
        read_adam_state(path, policy)
    assert str(path) in str(error.value)


def test_a_state_of_the_frozen_base_is_refused(tmp_path):
    """Whoever trained the base as well has not saved it in the adapter."""
    policy = lora_policy().requires_grad_(True)
    state = train(policy, list(policy.parameters())).state_dict()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_("lora_" in name)
    with pytest.raises(RequestError, match="which does not train here"):
        read_adam_state(saved(tmp_path, state), policy)


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize("content", ["missing", "pickled", "text", "empty", "cut", "list"])
def test_files_that_are_no_state(tmp_path, trained, content, capsys):
    policy, state = trained
    path = tmp_path / "optimizer.pt"
    if content == "pickled":
        torch.save({**state, "evil": Evil()}, path)
    elif content == "text":
        path.write_text("hello")
    elif content == "empty":
        path.touch()
    elif content == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-2000])
    elif content == "list":
        torch.save([1, 2], path)
    with pytest.raises(RequestError) as error:
        read_adam_state(path, policy)
    assert str(path) in str(error.value)
    assert "unpickled" not in capsys.readouterr().out
