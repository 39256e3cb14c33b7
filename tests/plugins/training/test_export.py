"""What is exported is the checkpoint's policy, to the libraries that know nothing of us."""

import json

import pytest
import torch
import uncollapse
from click.testing import CliRunner
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.networks.models import load_policy
from uncollapse.plugins.training.weights.checkpoint import load_optimizer
from uncollapse.plugins.training.weights.export import export

LORA = "model.lora={rank: 4, alpha: 16}"


def run(bandit, path, *overrides):
    """Two steps at a learning rate that moves every weight well beyond rounding."""
    shared = ("trainer.steps=2", "trainer.lr=1e-2", "trainer.zero_stage=1", "advantage=grpo", "validation.every=0")
    return uncollapse.train(uncollapse.compose(bandit, [*shared, *overrides]), path / "run").path


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def whole(request, bandit, tmp_path_factory):
    return request.param, run(bandit, tmp_path_factory.mktemp("whole"), f"model.dtype={request.param}")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def lora(request, bandit, tmp_path_factory):
    return request.param, run(bandit, tmp_path_factory.mktemp("lora"), LORA, f"model.dtype={request.param}")


def policy(bandit, path, dtype):
    """The checkpoint's policy, as the trainer would load it."""
    experiment = uncollapse.compose(uncollapse.core.runs.directory.RunDirectory.open(path).read_config())
    return load_policy(experiment.model, bandit["model"]["path"], 1.0, path / "checkpoints" / "step_2" / "model").model


@torch.no_grad()
def logprobs(model):
    tokens = torch.arange(5, 245).view(8, 30)
    return model.eval()(input_ids=tokens).logits.float().log_softmax(-1)


def test_a_whole_model_is_the_one_that_trained(bandit, whole, tmp_path):
    dtype, path = whole
    out = export(path, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    start = AutoModelForCausalLM.from_pretrained(bandit["model"]["path"], dtype=model.dtype)
    assert torch.equal(logprobs(model), logprobs(policy(bandit, path, dtype)))
    assert (logprobs(model) - logprobs(start)).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_float32_keeps_the_master_weights_of_a_bfloat16_model(whole, tmp_path):
    dtype, path = whole
    saved = load_file(export(path, tmp_path / "out", dtype="float32") / "model.safetensors")
    master = load_optimizer(path / "checkpoints" / "step_2")["master"]
    assert {value.dtype for value in saved.values()} == {torch.float32}
    assert set(master) == (set(saved) if dtype == "bfloat16" else set())
    for name, value in master.items():
        assert torch.equal(saved[name], value)
        assert not torch.equal(value, value.bfloat16().float()) or value.numel() < 100, name


def test_a_merged_adapter_gives_the_log_probs_of_the_policy(bandit, lora, tmp_path):
    dtype, path = lora
    model = AutoModelForCausalLM.from_pretrained(export(path, tmp_path / "out", dtype="float32"), dtype="auto")
    ours = policy(bandit, path, dtype)
    start = logprobs(AutoModelForCausalLM.from_pretrained(bandit["model"]["path"]))
    assert (logprobs(model) - start).abs().max() > 0.1
    # a bfloat16 policy with its fp32 adapter: what it would be without rounding
    ours = ours.float()
    master = load_optimizer(path / "checkpoints" / "step_2")["master"]
    assert bool(master) == (dtype == "bfloat16")
    ours.load_state_dict(master, strict=False)
    # float64, since fp32 passes through this random model differ by 2e-5 in the order of their sums alone
    assert torch.allclose(logprobs(model.double()), logprobs(ours.double()), atol=1e-5, rtol=0)


def test_a_merged_bfloat16_model_differs_by_rounding_only(bandit, tmp_path):
    path = run(bandit, tmp_path, LORA, "model.dtype=bfloat16")
    model = AutoModelForCausalLM.from_pretrained(export(path, tmp_path / "out"), dtype="auto")
    assert model.dtype == torch.bfloat16
    ours, exact = policy(bandit, path, "bfloat16"), export(path, tmp_path / "exact", dtype="float32")
    exact = logprobs(AutoModelForCausalLM.from_pretrained(exact, dtype="auto"))
    error, own = ((logprobs(m) - exact).abs().mean() for m in (model, ours))
    assert error < 2 * own  # no worse than what bfloat16 costs the policy itself


def test_the_adapter_alone_loads_with_peft(bandit, lora, tmp_path):
    dtype, path = lora
    out = export(path, tmp_path / "out", adapter=True)
    assert {file.name for file in out.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (out / "model.safetensors").exists()
    saved = load_file(out / "adapter_model.safetensors")
    assert {value.dtype for value in saved.values()} == {getattr(torch, dtype)}
    base = AutoModelForCausalLM.from_pretrained(bandit["model"]["path"], dtype=getattr(torch, dtype))
    model = PeftModel.from_pretrained(base, out)
    assert torch.allclose(logprobs(model), logprobs(policy(bandit, path, dtype)), atol=1e-5, rtol=0)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    assert AutoTokenizer.from_pretrained(out).chat_template


def test_wrong_requests(whole, tmp_path):
    _, path = whole
    with pytest.raises(RequestError, match="has no adapter"):
        export(path, tmp_path / "out", adapter=True)
    assert not (tmp_path / "out").exists()
    for among in (path / "checkpoints" / "step_7", path / "checkpoints" / "step_2" / "out"):
        with pytest.raises(RequestError, match="would go with them"):
            export(path, among)
        assert not among.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for there in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(RequestError, match="is there already"):
            export(path, there)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["full"]
    with pytest.raises(RequestError, match="cannot write there") as refused:
        export(path, tmp_path / "full" / "mine.txt" / "below")
    assert refused.value.where == str(tmp_path / "full" / "mine.txt" / "below")


def test_the_command(whole, tmp_path):
    _, path = whole
    (tmp_path / "empty").mkdir()
    checkpoint = path / "checkpoints" / "step_2"
    result = CliRunner().invoke(main, ["export", str(checkpoint), "--to", str(tmp_path / "empty")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "empty" / "config.json").exists()
    again = CliRunner().invoke(main, ["export", str(path)])
    assert again.output == f"exported: {path / 'export' / 'step_2'}\n"
    again = CliRunner().invoke(main, ["export", str(path)])
    assert again.exit_code == 2
    assert "is there already" in again.output
