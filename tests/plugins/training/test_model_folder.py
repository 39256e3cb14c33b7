"""Folders that hold no model, or parts of several: one message each, before anything runs."""

import json
import shutil

import pytest
import torch
import uncollapse
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from uncollapse.cli.main import main
from uncollapse.core.compose.experiment import Model
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.networks.model_folder import read_config
from uncollapse.plugins.training.networks.models import load_critic, load_policy, load_reference, load_tokenizer
from uncollapse.plugins.training.processes.ranks import start_ranks

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture
def folder(bandit, tmp_path):
    return shutil.copytree(bandit["model"]["path"], tmp_path / "folder")


def configured(**changes):
    def damage(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


def weighed(change):
    def damage(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def emptied(*files):
    def damage(folder):
        shutil.rmtree(folder)
        folder.mkdir()
        for file in files:
            (folder / file).write_text("{}")

    return damage


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def as_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"nothing")


def set_one(value):
    return weighed(lambda weights: weights[UP].view(-1)[5:6].fill_(value))


DAMAGES = {
    "an empty folder": (emptied(), "the directory is empty"),
    "an adapter alone": (emptied("adapter_config.json"), "holds an adapter, not a model"),
    "an adapter beside the model": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "and an adapter"),
    "a GGUF file": (emptied("model.gguf"), "holds a GGUF file"),
    "no configuration": (emptied("model.safetensors"), "has no config.json"),
    "a broken configuration": (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
    "an unknown model": (configured(model_type="strange"), "strange"),
    "another vocabulary": (configured(vocab_size=999), "the configuration says 999 x "),
    "a smaller vocabulary": (configured(vocab_size=20), "the configuration says 20 x "),
    "another width": (configured(hidden_size=8), "config.json of .* is not that of its weights"),
    "a size that is no number": (configured(hidden_size="many"), "expected int, got str"),
    "no heads": (configured(num_attention_heads=0), "ZeroDivisionError"),
    "more layers": (configured(num_hidden_layers=9, layer_types=["full_attention"] * 9), "has no weights for "),
    "fewer layers": (
        configured(num_hidden_layers=1, layer_types=["full_attention"]),
        r"has no place for 12 of its weights, e\.g\. model\.layers\.1\.",
    ),
    "another architecture": (
        configured(model_type="llama", architectures=["LlamaForCausalLM"]),
        r"has no place for 6 of its weights, e\.g\. model\.layers\.0\.self_attn\.k_proj\.bias",
    ),
    "a weight that is missing": (
        weighed(lambda weights: weights.pop(UP)),
        "has no weights for 1 parameters, e.g. .*up_proj.weight",
    ),
    "embeddings that are tied and differ": (
        weighed(lambda weights: weights.update({"lm_head.weight": weights["model.embed_tokens.weight"] + 1})),
        "ties the output embedding to the input embedding, and its weights hold two",
    ),
    "NaN": (set_one(torch.nan), "not all finite numbers: .*mlp.up_proj.weight holds NaN or infinity"),
    "infinity": (set_one(-torch.inf), "not all finite numbers: .*mlp.up_proj.weight holds NaN or infinity"),
    "cut weights": (cut, "cannot load a model from"),
    "weights that are no pickle": (as_pickle, "cannot load a model from"),
    "code of its own": (
        configured(model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
        "contains custom code",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_no_model_is_refused_in_one_message(folder, damage, capfd):
    apply, message = DAMAGES[damage]
    apply(folder)
    settings = Model(path="x", dtype="float32")
    loaders = {
        "model.path": [lambda: load_policy(settings, folder, 1.0), lambda: load_reference(settings, folder, 1.0)],
        "critic.path": [lambda: load_critic(settings, folder)],
    }
    if damage == "embeddings that are tied and differ":  # a critic has but one of them
        loaders["critic.path"] = []
    for key, loads in loaders.items():
        for load in loads:
            with pytest.raises(RequestError, match=message) as refused:
                load()
            assert refused.value.where == key
            assert refused.value.fix
            assert "\n" not in refused.value.what
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_what_a_critic_does_without_and_old_buffers_are_no_fault(folder):
    weighed(lambda w: w.update({"v_head.weight": torch.ones(1), "model.layers.0.self_attn.inv_freq": torch.ones(2)}))(
        folder
    )
    policy, critic = load_policy(Model(path="x", dtype="float32"), folder, 1.0), load_critic(Model(), folder)
    weights = policy.language_model.get_decoder().state_dict()
    assert all(
        torch.equal(p.float(), weights[name].bfloat16().float()) for name, p in critic.decoder.named_parameters()
    )


def refused(bandit, folder, *overrides):
    experiment = uncollapse.compose(bandit, [f"model.path={folder}", *overrides])
    with pytest.raises(RequestError) as error:
        assemble(experiment, start_ranks())
    return error.value


def test_quantised_weights_are_not_trained(bandit, folder):
    configured(quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    error = refused(bandit, folder)
    assert "are quantised (gptq)" in error.what
    assert error.where == "model.path"
    other = refused(bandit, bandit["model"]["path"], "advantage=gae", f"critic.path={folder}")
    assert (other.what, other.where) == (error.what, "critic.path")
    assert read_config(folder).quantization_config["bits"] == 4


def test_more_tokens_than_embeddings_are_refused(bandit, folder):
    tokenizer = load_tokenizer(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["<one>", "<two>"])
    tokenizer.save_pretrained(folder)
    error = refused(bandit, folder)
    assert f"'<two>' is token {size + 1}, and the embeddings end at {size - 1}" in error.what
    assert "resize" in error.fix


def test_a_tokenizer_without_the_token_that_ends_a_text_is_another_models(bandit, folder):
    model = load_policy(Model(path="x", dtype="float32"), folder, 1.0).model
    size = model.config.vocab_size
    model.resize_token_embeddings(size + 50)
    model.config.eos_token_id = [2, size + 40]
    model.save_pretrained(folder)
    assert f"ends its text with token {size + 40}" in refused(bandit, folder).what
    model.config.eos_token_id = [2, size - 1]  # padded embeddings are usual
    model.save_pretrained(folder)
    assemble(uncollapse.compose(bandit, [f"model.path={folder}"]), start_ranks()).close()


def test_a_chat_template_with_a_mistake_is_refused(folder):
    (folder / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m['content'] }")
    with pytest.raises(RequestError, match=r"is no template: .*\(line 2\)"):
        load_tokenizer(folder)
    assert load_tokenizer(folder, chat=False)


def test_the_command_ends_with_a_message_and_code_2(bandit, folder, tmp_path):
    set_one(torch.nan)(folder)
    file = tmp_path / "experiment.yaml"
    file.write_text(json.dumps({**bandit, "model": {"path": str(folder), "dtype": "float32"}}))
    ended = CliRunner().invoke(main, ["train", str(file), "--run-dir", str(tmp_path / "run")])
    assert ended.exit_code == 2
    assert f"{UP} holds NaN or infinity" in ended.output
    assert "Traceback" not in ended.output
