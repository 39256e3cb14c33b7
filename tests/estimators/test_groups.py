import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.estimators.groups import group_count, group_index, group_mean, group_std, group_sum

finite = st.floats(-1e3, 1e3, allow_nan=False, width=32)


def test_index_without_ids_sorts_them():
    ids_P, index_E = group_index(torch.tensor([7, 3, 7, 5]))
    assert ids_P.tolist() == [3, 5, 7]
    assert index_E.tolist() == [2, 0, 2, 1]


def test_index_keeps_the_order_of_given_ids():
    ids_P, index_E = group_index(torch.tensor([7, 3, 7, 5]), torch.tensor([7, 5, 3, 9]))
    assert ids_P.tolist() == [7, 5, 3, 9]
    assert index_E.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("ids", [[1, 2], [4, 5], [1], []])
def test_index_refuses_members_of_unlisted_groups(ids):
    with pytest.raises(RunError, match="not listed"):
        group_index(torch.tensor([3, 3]), torch.tensor(ids, dtype=torch.int64))


def test_index_of_nothing():
    ids_P, index_E = group_index(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert len(ids_P) == len(index_E) == 0


def test_hand_values_of_interleaved_groups():
    x, index = torch.tensor([10.0, 1.0, 20.0, 2.0, 5.0]), torch.tensor([0, 1, 0, 1, 2])
    assert group_count(index, 4).tolist() == [2, 2, 1, 0]
    assert group_sum(x, index, 4).tolist() == [30, 3, 5, 0]
    assert group_mean(x, index, 4).tolist() == [15, 1.5, 5, 0]
    assert group_std(x, index, 4).tolist() == pytest.approx([7.0710678, 0.70710678, 0, 0])
    assert group_std(x, index, 4, ddof=0).tolist() == pytest.approx([5, 0.5, 0, 0])


@given(value=finite, size=st.integers(1, 40))
def test_equal_members_have_exactly_their_mean_and_no_deviation(value, size):
    x = torch.full((size,), value)
    index = torch.zeros(size, dtype=torch.int64)
    assert group_mean(x, index, 1).item() == x[0].item()
    assert group_std(x, index, 1).item() == 0


@given(values=st.lists(finite, min_size=2, max_size=20), ddof=st.sampled_from([0, 1]))
def test_agrees_with_torch(values, ddof):
    x, index = torch.tensor(values, dtype=torch.float64), torch.zeros(len(values), dtype=torch.int64)
    torch.testing.assert_close(group_mean(x, index, 1)[0], x.mean())
    torch.testing.assert_close(group_std(x, index, 1, ddof=ddof)[0], x.std(correction=ddof))


def test_a_large_offset_does_not_drown_the_deviation():
    x, index = torch.tensor([1e7, 1e7 + 1, 1e7 + 2, 1e7 + 3], dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
    assert group_std(x, index, 1).item() == pytest.approx(1.2909944487)


def test_half_precision_is_widened():
    assert group_mean(torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([0, 0]), 1).dtype == torch.float32
    assert group_mean(torch.tensor([1, 2]), torch.tensor([0, 0]), 1).tolist() == [1.5]
