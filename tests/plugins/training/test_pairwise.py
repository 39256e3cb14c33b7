"""Log-probs of continuations after prompts, against scoring every full sequence on its own."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Qwen2ForCausalLM
from uncollapse.core.components import Scores
from uncollapse.core.compose.experiment import Trainer
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks, start_ranks
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.pairwise import Scorer

ALONE = Ranks(0, 1, torch.device("cpu"))
SYSTEM = (7, 8, 9, 10, 11)
PROMPTS = [
    (*SYSTEM, 3, 4),
    (*SYSTEM, 3, 4, 20, 21, 22, 23, 24, 25),  # continues the first one
    (5,),  # nothing but the token that predicts
    (*SYSTEM, 3, 4),  # once more
    (*SYSTEM, 3, 30, 31),
    (*SYSTEM, 6),  # its head is a prefix of the one before it in lexicographic order
    (40, 41, 42),
]
CONTINUATIONS = [(1,), (2, 3, 4, 5, 6, 7, 8), (2, 3), (1,), (50, 51, 52), (2, 9)]


class Engine:
    """A policy without a backend, and a record of what it was asked."""

    def __init__(self, policy):
        self.module, self.calls = policy, []

    def score(self, batch, **options):
        read = options["cache"].grows if "cache" in options else False
        self.calls.append((tuple(batch.tokens.shape), read, int(batch.mask.sum()), options.get("entropy")))
        self.module.eval()
        return Scores(**self.module(batch, **options))


def scorer(model, temperature=1.0, budget=0):
    return Scorer(Engine(Policy(model, temperature)), 4, ALONE, budget)


@torch.no_grad()
def brute_force(model, prompts, continuations, temperature=1.0):
    """One forward pass of the whole model per pair."""
    model.eval()
    rows = []
    for prompt in prompts:
        row = []
        for continuation in continuations:
            tokens = torch.tensor([[*prompt, *continuation]])
            logprobs = (model(tokens, use_cache=False).logits[0].float() / temperature).log_softmax(-1)
            targets = torch.tensor(continuation)
            row.append(logprobs[len(prompt) - 1 : -1].gather(1, targets[:, None]).double().sum())
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("micro_batch", "budget"), [(1, 0), (2, 0), (100, 0), (2, 1), (2, 25), (2, 1000)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_full_sequences(model, micro_batch, budget, temperature):
    found = scorer(model, temperature, budget).pairwise(PROMPTS, CONTINUATIONS, micro_batch)
    assert found.shape == (7, 6)
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert torch.allclose(found, brute_force(model, PROMPTS, CONTINUATIONS, temperature), rtol=0, atol=1e-4)


tokens = st.integers(0, 4)  # few tokens: many common prefixes


@settings(max_examples=25)
@given(
    prompts=st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=6),
    continuations=st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=4),
    micro_batch=st.integers(1, 4),
    budget=st.sampled_from([0, 5, 20, 100]),
)
def test_any_prompts_and_continuations(models, prompts, continuations, micro_batch, budget):
    model = models()
    found = scorer(model, budget=budget).pairwise(prompts, continuations, micro_batch)
    assert torch.allclose(found, brute_force(model, prompts, continuations), rtol=0, atol=1e-4)


def test_probabilities_of_all_continuations_add_up_to_one(model):
    pairs = [(first, second) for first in range(61) for second in range(61)]
    found = scorer(model).pairwise([(1, 2, 3)], pairs, 1000)
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_lora_is_scored_with_its_adapter_and_without_dropout(model):
    adapted = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.gradient_checkpointing_enable({"use_reentrant": False})
    adapted.enable_input_require_grads()
    adapted.train()
    own = scorer(adapted)
    found = own.pairwise(PROMPTS, CONTINUATIONS, 3)
    assert adapted.training  # as it was
    assert not found.requires_grad
    assert torch.allclose(found, brute_force(adapted, PROMPTS, CONTINUATIONS), rtol=0, atol=1e-4)
    with adapted.disable_adapter():
        assert not torch.allclose(found, own.pairwise(PROMPTS, CONTINUATIONS, 3), atol=0.1)


def test_bfloat16_is_as_close_as_its_rounding(models):
    model = models(torch.bfloat16)
    found, expected = scorer(model).pairwise(PROMPTS, CONTINUATIONS), brute_force(model, PROMPTS, CONTINUATIONS)
    assert torch.allclose(found, expected, rtol=0.02, atol=0.05)
    assert not torch.equal(found, scorer(models()).pairwise(PROMPTS, CONTINUATIONS))


SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 61,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Llama", SMALL),
        ("Mistral", {**SMALL, "sliding_window": 4}),  # shorter than the prompts
        ("Gemma2", {**SMALL, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 3.0}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 61, "n_positions": 64}),
    ],
)
def test_other_architectures(name, config):
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(
        getattr(transformers, f"{name}Config")(**config)
    )
    expected = brute_force(model, PROMPTS, CONTINUATIONS)
    for budget in (0, 30, 1000):
        found = scorer(model, budget=budget).pairwise(PROMPTS, CONTINUATIONS, 2)
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Lfm2", {**SMALL, "layer_types": ["conv", "full_attention"]}),
        ("Rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 61}),  # takes no keys and values at all
        ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 61, "state_size": 4}),
    ],
)
def test_what_cannot_be_cut_is_refused(name, config):
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**config))
    with pytest.raises(RequestError, match=f"a model of type {name.lower()} cannot share prompts") as error:
        scorer(model).pairwise(PROMPTS, CONTINUATIONS)
    assert error.value.where == "model.path"


def test_each_token_is_read_once_and_only_continuations_reach_the_head(model):
    own = scorer(model)
    own.pairwise(PROMPTS, CONTINUATIONS, 3)
    calls = own._engine.calls
    read = [shape for shape, reading, _, _ in calls if reading]
    # The heads of the six distinct prompts, in order: nothing; SYSTEM 3; ... 4 20-24; ... 30; SYSTEM; 40 41
    assert read == [(1, 6), (1, 6), (1, 1), (1, 2)]
    scored = [call for call in calls if not call[1]]
    assert len(scored) == 6 * 2  # six prompts, five distinct continuations in parts of two and three
    assert sum(positions for _, _, positions, _ in scored) == 6 * (1 + 7 + 2 + 3 + 2)
    assert [positions for _, reading, positions, _ in calls if reading] == [0] * 4
    assert {entropy for *_, entropy in calls} == {"none"}


def test_with_a_token_budget_prompts_and_pairs_go_together(model):
    own = scorer(model, budget=1000)
    own.pairwise(PROMPTS, CONTINUATIONS, 1)
    # the heads of the six distinct prompts, of twelve tokens at most; then all pairs, of up to eight tokens
    assert [(shape, reading) for shape, reading, _, _ in own._engine.calls] == [((6, 12), True), ((30, 8), False)]
    assert [positions for _, _, positions, _ in own._engine.calls] == [0, 6 * (1 + 7 + 2 + 3 + 2)]


@pytest.mark.parametrize("budget", [1, 20, 40, 70])
def test_no_pass_exceeds_the_token_budget_but_for_single_rows(model, budget):
    own = scorer(model, budget=budget)
    own.pairwise(PROMPTS, CONTINUATIONS, 1)
    shapes = [shape for shape, *_ in own._engine.calls]
    assert all(rows == 1 or rows * width <= budget for rows, width in shapes)
    assert sum(rows for (rows, _), reading, *_ in own._engine.calls if not reading) == 30


def test_nothing_to_score(model):
    own = scorer(model)
    assert own.pairwise([], CONTINUATIONS).shape == (0, 6)
    assert own.pairwise(PROMPTS, []).shape == (7, 0)
    assert own.pairwise([(1, 2)], [()]).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="a prompt is empty"):
        own.pairwise([(1, 2), ()], CONTINUATIONS)


def test_called_on_a_batch_it_scores_rows(model, batch):
    scores = scorer(model)(batch)
    expected = Policy(model, 1.0)(batch)
    assert torch.allclose(scores.logprobs, expected["logprobs"], atol=1e-5)
    assert torch.allclose(scores.entropies, expected["entropies"], atol=1e-5)


# --- backend and ranks ----------------------------------------------------------------------------------------------


def on_ranks(directory, stage):
    """What one of several ranks computes: all prompts; one, so that the other ranks have none; all with a budget."""
    ranks = start_ranks()
    policy = Policy(Qwen2ForCausalLM.from_pretrained(f"{directory}/model", dtype=torch.float32), 1.0)
    # at stage 3 even the smallest weight is gathered in each pass, as those of a large model are
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
    backend = DeepSpeed({"zero_optimization": zero})
    engine = backend.start(policy, Trainer(), zero_stage=stage, dtype="float32", ranks=ranks)
    engine.module.train()
    own = Scorer(engine, 2, ranks)
    results = [own.pairwise(PROMPTS, CONTINUATIONS, 2), own.pairwise(PROMPTS[:1], CONTINUATIONS, 4)]
    results.append(Scorer(engine, 2, ranks, 40).pairwise(PROMPTS, CONTINUATIONS))
    assert engine.module.training
    # a pass of the usual kind still works afterwards
    mask = torch.tensor([[False, True, True]])
    own(Batch(tokens=torch.tensor([[1, 2, 3]]), mask=mask, lengths=torch.tensor([3])))
    return ranks, results


@pytest.mark.parametrize("stage", [0, 3])
def test_deepspeed(models, tmp_path, stage):
    model = models()
    model.save_pretrained(tmp_path / "model")
    _, (everything, one, in_blocks) = on_ranks(tmp_path, stage)
    expected = brute_force(model, PROMPTS, CONTINUATIONS)
    assert torch.allclose(everything, expected, rtol=0, atol=1e-4)
    assert torch.allclose(in_blocks, expected, rtol=0, atol=1e-4)
    assert torch.allclose(one, expected[:1], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 3])
def test_two_ranks_share_the_prompts(models, tmp_path, stage):
    model = models()
    model.save_pretrained(tmp_path / "model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(stage)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()[-3000:]
    first, second = (torch.load(tmp_path / f"out_{rank}.pt", weights_only=True) for rank in range(2))
    expected = brute_force(model, PROMPTS, CONTINUATIONS)
    for ours, theirs, right in zip(first, second, (expected, expected[:1], expected), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.allclose(ours, right, rtol=0, atol=1e-4)


if __name__ == "__main__":
    place, found = on_ranks(sys.argv[1], int(sys.argv[2]))
    torch.save(found, f"{sys.argv[1]}/out_{place.rank}.pt")
