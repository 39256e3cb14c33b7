"""Reading the common beginning of rows once changes no number, and is done where it may be."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.plugins.probe.estimation import shared_prefix
from uncollapse.plugins.probe.estimation.passes import Passes, trained
from uncollapse.plugins.probe.estimation.shared_prefix import common
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.networks.packing import enable_packing
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.batch import Batch

VOCABULARY, SHARED, WIDTH = 31, 20, 40
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return Policy(Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval(), 0.9)


@pytest.fixture
def batch():
    """Six rows that share 20 tokens, of different lengths; sampled tokens begin at 24 or later; one row has none."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (6, WIDTH), generator=generator)
    tokens[:, :SHARED] = tokens[0, :SHARED]
    lengths = torch.tensor([40, 35, 30, 28, 33, 40])
    columns = torch.arange(WIDTH)
    mask = (columns >= torch.tensor([24, 25, 24, 26, 30, 40])[:, None]) & (columns < lengths[:, None])
    return Batch(tokens=tokens * (columns < lengths[:, None]), mask=mask, lengths=lengths)


def everything(policy, batch, size, budget=0):
    passes = Passes(policy, batch, size, Ranks(0, 1, torch.device("cpu")), budget=budget)
    generator = torch.Generator().manual_seed(2)
    along = {name: torch.randn(p.shape, generator=generator) for name, p in trained(policy).items()}
    weights = torch.randn(2, *batch.mask.shape, generator=generator) * batch.mask
    gradient = passes.weighted_gradient(*weights)
    return {**passes.forward_mode(along), **{f"g {k}": v for k, v in gradient.items()}}, passes.forward(along, 1e-2)


@pytest.mark.parametrize("size", [2, 6])
def test_no_number_changes(policy, batch, size, monkeypatch):
    monkeypatch.setattr(shared_prefix, "WORTH", 10**9)
    whole = everything(policy, batch, size)
    monkeypatch.setattr(shared_prefix, "WORTH", 16)
    read = []
    call = Policy.forward
    monkeypatch.setattr(Policy, "forward", lambda self, part, *a, **k: read.append(part) or call(self, part, *a, **k))
    shared = everything(policy, batch, size)
    beginnings = [part.tokens.shape for part in read if not part.mask.any()]
    assert beginnings == [(1, SHARED)] * 3 * (6 // size)  # of three passes
    for mine, theirs in zip(shared, whole, strict=True):
        for name, values in theirs.items():
            scale = float(values.abs().max())
            assert scale > 0
            torch.testing.assert_close(mine[name], values, rtol=0, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("worth", [16, 10**9])
@pytest.mark.parametrize(("budget", "gradient", "forward", "dual"), [(60, 5, 2, 2), (1000, 1, 1, 1)])
def test_a_token_budget_changes_no_number(batch, monkeypatch, worth, budget, gradient, forward, dual):
    """206 tokens in rows of 28 to 40: two of them have at most 60 only as 30 and 28, and three at most 120."""
    torch.manual_seed(0)
    policy = Policy(Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval(), 0.9)
    monkeypatch.setattr(shared_prefix, "WORTH", 10**9)
    whole = everything(policy, batch, 6)
    enable_packing(policy.language_model)
    monkeypatch.setattr(shared_prefix, "WORTH", worth)
    packed = everything(policy, batch, 1, budget)
    for mine, theirs in zip(packed, whole, strict=True):
        for name, values in theirs.items():
            torch.testing.assert_close(mine[name], values, rtol=0, atol=2e-5 * float(values.abs().max()), msg=name)
    cuts = Passes(policy, batch, 1, Ranks(0, 1, torch.device("cpu")), budget=budget)._cuts
    assert [len(cut) for cut in (cuts.gradient, cuts.forward, cuts.dual)] == [gradient, forward, dual]
    lengths = batch.lengths.tolist()
    assert all(sum(lengths[row] for row in rows) <= budget for rows in cuts.gradient)
    assert all(len(rows) * max(lengths[row] for row in rows) <= 2 * budget for rows in cuts.dual)


def test_a_gpu_reads_a_beginning_apart_only_where_that_saves_more_than_a_pass_takes(batch):
    """2 operations a parameter and token: 1e8 parameters, of which 51 rows save 1000 tokens each."""
    policy = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 10**8)])

    class Part(SimpleNamespace):
        def __len__(self):
            return 52

    on_gpu, on_cpu = (Part(tokens=SimpleNamespace(is_cuda=cuda)) for cuda in (True, False))
    assert shared_prefix._is_worth(policy, on_gpu, 1000)
    assert not shared_prefix._is_worth(policy, on_gpu, 900)
    assert shared_prefix._is_worth(policy, on_cpu, 16)
    assert not shared_prefix._is_worth(policy, on_cpu, 15)


def test_the_token_that_predicts_the_first_sampled_one_is_not_shared(batch):
    assert common(batch) == SHARED
    assert common(batch.take([0])) == 0
    early = Batch(tokens=batch.tokens, mask=torch.arange(WIDTH) >= torch.full((6, 1), 7), lengths=batch.lengths)
    assert common(early) == 6
    first = Batch(tokens=batch.tokens, mask=torch.ones_like(batch.mask), lengths=batch.lengths)
    assert common(first) == 0
    nothing = Batch(tokens=batch.tokens, mask=torch.zeros_like(batch.mask), lengths=batch.lengths)
    assert common(nothing) == SHARED


def test_padding_is_not_shared():
    tokens = torch.zeros(2, 30, dtype=torch.long)
    rows = Batch(tokens=tokens, mask=torch.zeros_like(tokens, dtype=torch.bool), lengths=torch.tensor([12, 30]))
    assert common(rows) == 11
