"""Losses of which no other implementation is run: values and gradients that were worked out by hand."""

import attrs
import pytest
import torch
from uncollapse.core.components import LossInputs
from uncollapse.core.compose.inner import named_of


def of(spelled, logprobs, log_ratios, advantages, stale=None, mask=None):
    """The loss of each token and its gradient; ``stale`` is log pi_old - log mu."""
    logprobs, log_ratios, advantages = (
        torch.tensor([row], dtype=torch.float64) for row in (logprobs, log_ratios, advantages)
    )
    old = logprobs - log_ratios
    sampler = old if stale is None else old - torch.tensor([stale], dtype=torch.float64)
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=old,
        sampler_logprobs=sampler,
        advantages=advantages,
        mask=torch.tensor([mask or [True] * logprobs.shape[1]]),
        rows=torch.zeros(1, dtype=torch.long),
    )
    loss = named_of("policy_loss", spelled, "policy_loss").component
    inputs = attrs.evolve(inputs, prepared=loss.prepare(inputs) or {}, logprobs=logprobs.requires_grad_())
    loss_B_T, metrics = loss(inputs)
    loss_B_T.sum().backward()
    return loss_B_T[0].tolist(), logprobs.grad[0].tolist(), metrics


RATIOS = torch.tensor([2, 0.1, 0.5, 3], dtype=torch.float64).log().tolist()


@pytest.mark.parametrize(("spelled", "last"), [("topr", 1), ("topr(max_ratio=2)", 2)])
def test_topr_weighs_bad_tokens_by_their_ratio_up_to_a_bound_and_good_ones_by_nothing(spelled, last):
    values, gradient, _ = of(spelled, [-1, -2, -1, -3], RATIOS, [1, 2, -1, -1])
    assert values == pytest.approx([1, 4, -0.5, -3 * last])
    assert gradient == pytest.approx([-1, -2, 0.5, last])


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.005, [0, 1, 0, 0]),  # the least stale token stays, whatever the bound
        (0.02, [0, 1, 0, 0]),  # squares 0.01, 0.04, 0.09 and 0.25: their means are 0.01, 0.025, 0.047 and 0.0975
        (0.04, [0, 1, 0, 1]),
        (0.05, [1, 1, 0, 1]),
        (0.1, [1, 1, 1, 1]),
    ],
)
def test_m2po_leaves_out_the_stalest_tokens_until_their_mean_square_is_below_the_bound(threshold, kept):
    advantages, stale = [1, -2, 3, -4, 5], [-0.3, 0.1, 0.5, -0.2, 9]
    mask = [True, True, True, True, False]
    values, gradient, metrics = of(f"m2po(threshold={threshold})", [-1.0] * 5, [0.0] * 5, advantages, stale, mask)
    expected = [-keep * advantage for keep, advantage in zip([*kept, 0], advantages, strict=True)]
    assert values == pytest.approx(expected)
    assert gradient == pytest.approx(expected)
    dropped, count = metrics["m2po_dropped"]
    assert (float(dropped), float(count)) == (4 - sum(kept), 4)


def test_m2po_leaves_out_tokens_of_equal_value_together():
    # squares .01, .0625, .0625: the mean of the first two is .036, of all three .045; one of two equals cannot stay
    _, gradient, _ = of("m2po(threshold=0.04)", [-1.0] * 3, [0.0] * 3, [1, 2, 3], [0.1, 0.25, -0.25], [True] * 3)
    assert gradient == pytest.approx([-1, 0, 0])
