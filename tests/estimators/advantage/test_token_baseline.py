"""The optimal token baseline, by hand."""

from __future__ import annotations

import attrs
import pytest
import torch
from uncollapse.core.components import CreditInputs
from uncollapse.estimators.advantage.token_baseline import Otb


def batch(scores, mask, logprobs=None, collision_probs=None, groups=None):
    mask = torch.tensor(mask, dtype=torch.bool)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return CreditInputs(
        rewards=torch.where(last, torch.tensor(scores)[:, None], 0.0),
        mask=mask,
        groups=torch.zeros(len(mask), dtype=torch.long) if groups is None else torch.tensor(groups),
        logprobs=(torch.full(mask.shape, 0.5) if logprobs is None else torch.tensor(logprobs)).log(),
        collision_probs=torch.full(mask.shape, 0.5) if collision_probs is None else torch.tensor(collision_probs),
    )


def test_rows_count_by_what_their_gradients_have_gathered():
    # w = 1 - 2 p + sum p^2: 0.5, 0.5 and 0.1, 0.4 in the second row, so that W = 0.5, 1.0 and 0.1, 0.5
    given = batch(
        [1.0, 0.0], [[1, 1], [1, 1]], logprobs=[[0.5, 0.5], [0.8, 0.6]], collision_probs=[[0.5, 0.5], [0.7, 0.6]]
    )
    result = Otb(eps=0.0).compute(given)
    expected = torch.tensor([[1 / 6, 1 / 3], [-5 / 6, -2 / 3]])
    torch.testing.assert_close(result.advantages, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.returns, torch.tensor([[1.0, 1.0], [0, 0]]))


def test_tokens_are_counted_and_not_positions():
    gaps = batch([1.0, 0.0], [[1, 0, 1], [0, 1, 1]])
    together = batch([1.0, 0.0], [[1, 1], [1, 1]])
    taken = Otb().compute(gaps).advantages[gaps.mask].view(2, 2)
    assert torch.equal(taken, Otb().compute(together).advantages)


@pytest.mark.parametrize(("zero_tail", "tail"), [(True, 3.0), (False, 0.0)])
def test_the_tail_of_the_longest_row_has_no_peers(zero_tail, tail):
    result = Otb(zero_tail=zero_tail).compute(batch([3.0, 0.0], [[1, 1, 1], [1, 0, 0]]))
    assert result.advantages[0].tolist() == pytest.approx([1.5, tail, tail])
    assert result.advantages[1].tolist() == pytest.approx([-1.5, 0, 0])


@pytest.mark.parametrize("zero_tail", [True, False])
def test_equal_scores_and_a_group_of_one_get_exactly_zero(zero_tail):
    given = batch([0.95] * 7 + [0.3], [[1, 1]] * 7 + [[1, 1]], groups=[4] * 7 + [2])
    noise = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    given = attrs.evolve(given, logprobs=noise.log(), collision_probs=(noise**2 + 0.1))
    assert not Otb(zero_tail=zero_tail).compute(given).advantages.any()


def test_a_policy_without_any_choice_is_compared_with_the_mean():
    # rounding has made sum p^2 a little smaller than p^2
    given = batch([1.0, 0.0], [[1], [1]], logprobs=[[1.0], [1.0]], collision_probs=[[1.0 - 1e-7], [1.0 - 1e-7]])
    assert Otb(eps=0.0).compute(given).advantages.flatten().tolist() == [0.5, -0.5]


def test_rows_without_tokens_are_in_no_group():
    given = batch([1.0, 0.0, 0.0], [[1, 1], [1, 1], [0, 0]])
    two = batch([1.0, 0.0], [[1, 1], [1, 1]])
    result = Otb().compute(given)
    assert torch.equal(result.advantages[:2], Otb().compute(two).advantages) and not result.advantages[2].any()
