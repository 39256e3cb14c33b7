import pytest
import torch
from uncollapse.estimators.kl.weights import importance_weight


def test_none_is_no_weight():
    assert importance_weight(torch.zeros(1, 1), torch.zeros(1, 1), "none") is None


@pytest.mark.parametrize("mode", ["detached", "differentiable"])
def test_is_the_ratio_within_bounds(mode):
    logprobs = torch.tensor([[-1.0, -1.0, 0.0, -90.0]])
    weight = importance_weight(logprobs, torch.tensor([[-1.0, -2.0, -90.0, 0.0]]), mode)
    bound = torch.tensor(20.0).exp().item()
    assert weight[0].tolist() == pytest.approx([1, 2.718282, bound, 1 / bound])


def test_only_the_differentiable_weight_has_a_gradient():
    logprobs = torch.tensor([[-1.0, 0.0]], requires_grad=True)
    old = torch.tensor([[-2.0, -90.0]])
    assert not importance_weight(logprobs, old, "detached").requires_grad
    importance_weight(logprobs, old, "differentiable").sum().backward()
    assert logprobs.grad[0].tolist() == pytest.approx([2.718282, 0])
