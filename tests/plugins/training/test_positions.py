"""Rows that grow beyond what a model has positions for."""

import math

import pytest
import torch
import uncollapse
from transformers import AutoConfig, AutoModelForCausalLM
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.engine_vllm.start import _check_served
from uncollapse.plugins.rollout.positions import Reach, reach
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.memory.model_shape import read_shapes
from uncollapse.plugins.training.networks.models import load_tokenizer
from uncollapse.plugins.training.processes.ranks import start_ranks

ROTARY = {"max_position_embeddings": 128}


def yarn(**settings):
    return {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, **settings}}


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("gpt2", {"n_positions": 64}, Reach(64, fixed=True)),
        ("opt", ROTARY, Reach(128, fixed=True)),
        ("gptj", {"n_positions": 64}, Reach(64, fixed=True)),
        ("mpt", {"max_seq_len": 32}, Reach(32, fixed=True)),
        ("qwen2", ROTARY, Reach(128, fixed=False)),
        ("qwen2", {**ROTARY, **yarn(factor=4.0, original_max_position_embeddings=128)}, Reach(512, fixed=False)),
        (
            "qwen2",
            {"max_position_embeddings": 512, **yarn(factor=4.0, original_max_position_embeddings=128)},
            Reach(512, fixed=False),
        ),
        (
            "llama",
            {
                "max_position_embeddings": 1024,
                "rope_parameters": {
                    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
                },
            },
            Reach(1024, fixed=False),
        ),
        (
            "llama",
            {**ROTARY, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            Reach(256, fixed=False),
        ),
        ("gemma3_text", ROTARY, Reach(128, fixed=False)),
        ("mamba", {}, None),
        ("bloom", {}, None),
    ],
)  # fmt: skip
def test_a_models_reach_is_what_its_configuration_says(kind, settings, expected):
    assert reach(AutoConfig.for_model(kind, **settings)) == expected


@pytest.fixture(scope="module")
def gpt2(bandit, tmp_path_factory):
    """With 256 positions, and the dropout that GPT-2 has by default."""
    directory = tmp_path_factory.mktemp("gpt2")
    words = load_tokenizer(bandit["model"]["path"])
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "vocab_size": len(words)}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **sizes, initializer_range=0.1)).save_pretrained(
        directory
    )
    words.save_pretrained(directory)
    return directory


def test_rows_beyond_a_table_of_positions_are_refused_before_anything_runs(bandit, gpt2, tmp_path):
    own, theirs = f"model.path={gpt2}", f"critic.path={gpt2}"
    for overrides, key in ([own], "model.path"), ([theirs, "advantage=gae"], "critic.path"):
        experiment = uncollapse.compose(bandit, [*overrides, "rollout.max_context=257"])
        for start in lambda e=experiment: assemble(e, start_ranks()), lambda e=experiment: read_shapes(e):
            with pytest.raises(RequestError, match=r"has 256 positions, .* lets rows grow to 257 tokens") as refused:
                start()
            assert refused.value.where == key
            assert "rollout.max_context=256" in refused.value.fix
        with pytest.raises(RequestError, match="has 256 positions"):
            uncollapse.train(experiment, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    parts = assemble(uncollapse.compose(bandit, [own, "rollout.max_context=256"]), start_ranks())
    parts.close()
    assert not parts.notes


@pytest.mark.parametrize(
    ("key", "spelled", "steers_to"),
    [
        ("entropy.controller", "pi({})", 9),
        ("entropy.controller", "adaptive({})", 9),
        ("advantage", "entrocraft(low={0}, high=10, low_end=0, high_end=0)", 9),
    ],
)
def test_an_entropy_beyond_the_vocabulary_is_refused_before_anything_runs(bandit, tmp_path, key, spelled, steers_to):
    vocabulary = AutoConfig.from_pretrained(bandit["model"]["path"]).vocab_size
    beyond = uncollapse.compose(bandit, [f"{key}={spelled.format(steers_to)}"])
    with pytest.raises(
        RequestError, match=f"steers to an entropy of 9 nats .* over the {vocabulary} tokens"
    ) as refused:
        uncollapse.train(beyond, tmp_path / "run")
    assert refused.value.where == key
    assert f"has more than {math.log(vocabulary):.3g}" in str(refused.value)
    assert not (tmp_path / "run").exists()
    within = uncollapse.compose(bandit, [f"{key}={spelled.format(math.log(vocabulary) - 0.01)}"])
    assemble(within, start_ranks()).close()


def test_rows_beyond_what_rotary_positions_were_trained_for_are_said_once(bandit, tmp_path, capfd):
    experiment = uncollapse.compose(bandit, ["trainer.steps=1", "validation.every=0", "advantage=gae"])
    positions = AutoConfig.from_pretrained(experiment.model.path).max_position_embeddings
    beyond = uncollapse.compose(experiment, [f"rollout.max_context={positions + 1}"])
    run = uncollapse.train(beyond, tmp_path / "run")
    said = f"has {positions} positions, and rollout.max_context lets rows grow to {positions + 1} tokens"
    assert capfd.readouterr().err.count(said) == 1
    assert (run.path / "log.txt").read_text().count(said) == 1
    within = assemble(uncollapse.compose(experiment, [f"rollout.max_context={positions}"]), start_ranks())
    within.close()
    assert not within.notes
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(experiment.model.path))
    with pytest.raises(RequestError, match=f"vLLM serves no rows of {positions + 1} tokens"):
        _check_served(model, positions + 1, adapter=False)
    _check_served(model, positions, adapter=False)
