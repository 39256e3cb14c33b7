import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.training.step.batch import Batch, parts, shares


def batch(lengths):
    width = max(lengths)
    positions = torch.arange(width)[None]
    real = positions < torch.tensor(lengths)[:, None]
    return Batch(
        tokens=torch.where(real, positions + 1, 0),
        mask=real & (positions > 0),
        lengths=torch.tensor(lengths),
        weights=real.float(),
        advantages=torch.arange(len(lengths))[:, None] * real.float(),
    )


def test_take_trims_to_the_longest_row_and_keeps_the_order():
    taken = batch([2, 7, 4]).take([2, 0])
    assert taken.tokens.tolist() == [[1, 2, 3, 4], [1, 2, 0, 0]]
    assert taken.advantages[:, 1].tolist() == [2.0, 0.0]
    assert taken.returns is None


def test_without_a_budget_of_tokens_micro_batches_are_as_large_as_they_may_be():
    (own,) = shares(batch([5, 3, 4, 2, 6]), range(5), ranks=1, size=2)
    assert [len(part) for part in own] == [2, 2, 1]


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=17), ranks=st.integers(1, 4), size=st.integers(1, 5))
def test_shares_give_every_row_once_and_every_rank_the_same_number_of_micro_batches(lengths, ranks, size):
    cut = shares(batch(lengths), range(len(lengths)), ranks, size)
    assert len({len(own) for own in cut}) == 1
    flat = [micro_batch for own in cut for micro_batch in own]
    assert all(len(micro_batch) <= size for micro_batch in flat)
    assert sum(float(micro_batch.weights.sum()) for micro_batch in flat) == sum(lengths)
    rows = [
        int(row)
        for micro_batch in flat
        for row, weight in zip(micro_batch.advantages[:, 0], micro_batch.weights, strict=True)
        if weight.sum()
    ]
    assert sorted(rows) == list(range(len(lengths)))


@given(rows=st.lists(st.integers(), max_size=40), size=st.integers(1, 12))
def test_parts_are_a_partition_into_the_fewest_equal_pieces(rows, size):
    cut = parts(rows, size)
    assert [row for part in cut for row in part] == rows
    assert len(cut) == max(1, -(-len(rows) // size))
    assert max(map(len, cut)) - min(map(len, cut)) <= 1
