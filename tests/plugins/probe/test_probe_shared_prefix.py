"""Reading the common beginning of rows once changes no number, and is done where it may be."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.plugins.probe.estimation import shared_prefix
from uncollapse.plugins.probe.estimation.passes import Passes, trained
from uncollapse.plugins.probe.estimation.shared_prefix import common
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.batch import Batch

VOCABULARY, SHARED, WIDTH = 31, 20, 40


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        vocab_size=VOCABULARY,
        initializer_range=0.2,
    )
    return Policy(Qwen2ForCausalLM(config).eval(), 0.9)


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


def everything(policy, batch, size):
    passes = Passes(policy, batch, size, Ranks(0, 1, torch.device("cpu")))
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
