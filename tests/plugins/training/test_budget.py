import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.compose.experiment import Trainer
from uncollapse.plugins.training.step.budget import SCORE_FACTOR, by_tokens


def test_by_hand():
    # longest first, each to the emptiest of three: 9 + 2, 6 + 3 + 1 and 5 + 4 + 1
    lengths = dict(enumerate([5, 9, 1, 6, 4, 2, 3, 1]))
    assert by_tokens(lengths, 1, 11) == [[[1, 5], [3, 6, 2], [0, 4, 7]]]


def test_a_row_beyond_the_budget_is_alone():
    dealt = by_tokens({0: 3, 1: 20, 2: 3}, 2, 6)
    assert dealt == [[[1]], [[0, 2]]]


def test_a_rank_without_rows_has_empty_micro_batches():
    assert by_tokens({7: 3}, 3, 10) == [[[7]], [[]], [[]]]


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), ranks=st.integers(1, 5), budget=st.integers(1, 200)
)
def test_every_row_once_within_the_budget_and_balanced_over_ranks(lengths, ranks, budget):
    dealt = by_tokens(dict(enumerate(lengths)), ranks, budget)
    assert len(dealt) == ranks
    assert len({len(own) for own in dealt}) == 1
    assert sorted(row for own in dealt for rows in own for row in rows) == list(range(len(lengths)))
    tokens = [[sum(lengths[row] for row in rows) for rows in own] for own in dealt]
    for own, counts in zip(dealt, tokens, strict=True):
        assert all(count <= budget or len(rows) == 1 for rows, count in zip(own, counts, strict=True))
    totals = [sum(counts) for counts in tokens]
    assert max(totals) - min(totals) <= max(lengths)
    for turn in zip(*tokens, strict=True):
        assert max(turn) - min(turn) <= max(lengths)


@pytest.mark.parametrize(("ranks", "budget"), [(1, 4096), (4, 8192), (8, 16384)])
def test_realistic_rows_fill_the_budget_and_no_rank_waits(ranks, budget):
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(512, generator=generator)
    lengths = (6.7 + 0.8 * normal).exp().clamp(150, 3600).long().tolist()
    dealt = by_tokens(dict(enumerate(lengths)), ranks, budget)
    totals = [sum(lengths[row] for rows in own for row in rows) for own in dealt]
    assert max(totals) - min(totals) < 0.01 * sum(lengths) / ranks
    fewest = -(-sum(lengths) // (budget * ranks))
    assert fewest <= len(dealt[0]) <= 1.05 * fewest + 1


def test_scoring_takes_twice_as_much_at_once_as_it_does_by_default():
    trainer = Trainer()
    assert trainer.score_batch / trainer.micro_batch == SCORE_FACTOR == 2
