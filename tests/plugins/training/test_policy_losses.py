import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import LossInputs
from uncollapse.estimators.policy_loss.clipped import Ppo

RATIOS = [1, 1.5, 0.5, 1.5, 0.5, 4]
ADVANTAGES = [1, 1, 1, -1, -1, -1]


def run(ratios, advantages, mask=None, **params):
    logprobs = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    advantages = torch.tensor([advantages], dtype=torch.float64)
    mask = torch.ones_like(advantages, dtype=torch.bool) if mask is None else torch.tensor([mask], dtype=torch.bool)
    loss, metrics = Ppo(**params)(LossInputs(logprobs, torch.zeros_like(logprobs), advantages, mask))
    loss.sum().backward()
    return loss[0].tolist(), logprobs.grad[0].tolist(), {k: (float(s), int(n)) for k, (s, n) in metrics.items()}


def test_vector():
    loss, gradient, metrics = run(RATIOS, ADVANTAGES)
    assert loss == pytest.approx([-1, -1.28, -0.5, 1.5, 0.8, 3])
    # The gradient in the log-prob is -A r, and nothing where a bound holds.
    assert gradient == pytest.approx([-1, 0, -0.5, 1.5, 0, 0])
    assert metrics["pg_clipfrac"] == (2, 6)
    assert metrics["pg_clipfrac_lower"] == (1, 6)
    assert metrics["ppo_kl"] == (pytest.approx(-torch.tensor(RATIOS).double().log().sum().item()), 6)


def test_without_dual_clip():
    loss, gradient, metrics = run(RATIOS, ADVANTAGES, dual_clip=None)
    assert loss[-1] == pytest.approx(4)
    assert gradient[-1] == pytest.approx(4)
    assert metrics["pg_clipfrac_lower"] == (0, 6)


def test_on_policy_the_gradient_is_the_policy_gradient():
    loss, gradient, metrics = run([1, 1], [2, -3])
    assert loss == pytest.approx([-2, 3])
    assert gradient == pytest.approx([-2, 3])
    assert metrics == {"pg_clipfrac": (0, 2), "pg_clipfrac_lower": (0, 2), "ppo_kl": (0, 2)}


def test_off_the_mask_everything_is_zero_whatever_stands_there():
    nan, inf = float("nan"), float("inf")
    logprobs = torch.tensor([[-1.0, nan, -inf, -1.0]], requires_grad=True)
    advantages = torch.tensor([[1.0, nan, 1.0, inf]])
    loss, metrics = Ppo()(
        LossInputs(logprobs, torch.full((1, 4), -1.0), advantages, torch.tensor([[True, False, False, False]]))
    )
    loss.sum().backward()
    assert loss.tolist() == [[-1, 0, 0, 0]]
    assert logprobs.grad.tolist() == [[-1, 0, 0, 0]]
    assert {int(count) for _, count in metrics.values()} == {1}
    assert float(metrics["ppo_kl"][0]) == 0


def test_an_empty_mask_gives_zero_loss_and_zero_gradient():
    loss, gradient, metrics = run([2.0, 3.0], [1, -1], mask=[False, False])
    assert loss == gradient == [0, 0]
    assert metrics["pg_clipfrac"] == (0, 0)


def test_extreme_ratios_stay_finite():
    logprobs = torch.tensor([[0.0, -500.0]], requires_grad=True)
    old = torch.tensor([[-500.0, 0.0]])
    loss, _ = Ppo(dual_clip=None)(
        LossInputs(logprobs, old, torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool))
    )
    loss.sum().backward()
    assert loss.detach().tolist()[0] == pytest.approx([torch.tensor(20.0).exp().item(), 0], abs=1e-6)
    assert logprobs.grad.tolist() == [[0, 0]]


@pytest.mark.parametrize("params", [{"clip_low": -0.1}, {"clip_high": -0.1}, {"dual_clip": 1.0}])
def test_parameters_are_checked(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        Ppo(**params)


@given(
    tokens=st.lists(st.tuples(st.floats(0.05, 20), st.floats(-5, 5), st.booleans()), min_size=2, max_size=12),
    cut=st.integers(1, 11),
)
def test_metrics_of_micro_batches_add_up(tokens, cut):
    def totals(part):
        return run(*(list(column) for column in zip(*part, strict=True)))[2] if part else {}

    whole, parts = totals(tokens), [totals(tokens[:cut]), totals(tokens[cut:])]
    for name, (total, count) in whole.items():
        assert sum(part[name][0] for part in parts if part) == pytest.approx(total)
        assert sum(part[name][1] for part in parts if part) == count


@given(ratio=st.floats(0.05, 20), advantage=st.floats(-5, 5))
def test_the_loss_is_the_pessimistic_one_up_to_the_dual_clip(ratio, advantage):
    (loss,), _, _ = run([ratio], [advantage])
    surrogate = min(advantage * ratio, advantage * min(max(ratio, 0.8), 1.28))
    assert loss == pytest.approx(-surrogate if advantage >= 0 else min(-surrogate, -3 * advantage))
