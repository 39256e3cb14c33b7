"""Exact enumeration: what the policy gradient is on average when another distribution sampled, in float64."""

import itertools

import pytest
import torch
from uncollapse.core.components import Scores
from uncollapse.estimators.correction.sequence import SequenceTis
from uncollapse.estimators.correction.token import IcePop, NoCorrection, Tis
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.losses import PolicyObjective

INF = float("inf")
THETA = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64)
SAMPLER = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
ADVANTAGES = torch.tensor([0.5, -1.0, 2.0, -0.3], dtype=torch.float64)


def expected_gradient(correction, theta, logprobs_of, sampler_logprobs, advantages):
    """Minus the gradient of the loss (so, of the return), averaged over every row with the sampler's probability.

    The loss is that of a training step: rows are weighted with their probability where a step has 1 / rows.
    """
    theta = theta.clone().requires_grad_()
    logprobs = logprobs_of(theta)
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    batch = Batch(
        tokens=torch.zeros(mask.shape, dtype=torch.long),
        mask=mask,
        lengths=torch.full((len(mask),), mask.shape[1]),
        weights=sampler_logprobs.sum(1, keepdim=True).exp().expand_as(logprobs),
        old_logprobs=logprobs.detach(),
        sampler_logprobs=sampler_logprobs,
        advantages=advantages[:, None].expand_as(logprobs),
    )
    objective = PolicyObjective(Ppo(), correction=correction)
    loss, _ = objective(Scores(logprobs=logprobs, entropies=torch.zeros_like(logprobs)), batch)
    return -torch.autograd.grad(loss, theta)[0]


def of_one_token(correction, advantages=ADVANTAGES):
    return expected_gradient(
        correction, THETA, lambda theta: theta.log_softmax(0)[:, None], SAMPLER.log()[:, None], advantages
    )


def on_policy(advantages=ADVANTAGES, keep=1.0):
    """sum_a p_a keep_a A_a grad log p_a, with grad log p_a = e_a - p."""
    p = THETA.softmax(0)
    each = p * keep * advantages
    return each - each.sum() * p


@pytest.mark.parametrize("correction", [Tis(INF), SequenceTis(INF)])
def test_untruncated_weights_give_the_gradient_of_the_trainer(correction):
    assert of_one_token(correction).tolist() == pytest.approx(on_policy().tolist(), abs=1e-12)


def test_without_a_correction_it_is_another_one():
    each = SAMPLER * ADVANTAGES
    found = of_one_token(NoCorrection())
    assert found.tolist() == pytest.approx((each - each.sum() * THETA.softmax(0)).tolist(), abs=1e-12)
    assert (found - on_policy()).abs().max() > 0.1
    assert found[2] < on_policy()[2]  # the best action is drawn too rarely, so too little is learnt from it


def test_the_bias_of_truncation():
    # ratios 2.36, 0.22, 2.63, 0.58: the first and the third action are above the cap
    ratios = THETA.softmax(0) / SAMPLER
    assert (ratios > 2).tolist() == [True, False, True, False]
    found = of_one_token(Tis(2.0))
    assert found.tolist() == pytest.approx(on_policy(keep=(2 / ratios).clamp(max=1)).tolist(), abs=1e-12)
    # a reward on a truncated action alone: the right direction, shrunk by cap / ratio; on another, nothing is lost
    for action, share in [(0, 2 / ratios[0]), (1, 1.0), (2, 2 / ratios[2]), (3, 1.0)]:
        reward = torch.eye(4, dtype=torch.float64)[action]
        truncated, whole = of_one_token(Tis(2.0), reward), on_policy(reward)
        assert truncated.tolist() == pytest.approx((share * whole).tolist(), abs=1e-12)
        assert 0 < truncated[action] <= whole[action] * (1 + 1e-12)


def test_icepop_leaves_out_what_it_drops():
    keep = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)  # ratios 2.36, 0.22, 2.63, 0.58
    assert of_one_token(IcePop(0.5, 2.5)).tolist() == pytest.approx(on_policy(keep=keep).tolist(), abs=1e-12)


# --- two tokens, the second one's distribution given the first: 3 x 3 rows ---

ROWS = list(itertools.product(range(3), repeat=2))
FIRST, SECOND = torch.tensor(ROWS).T
GENERATOR = torch.Generator().manual_seed(3)
TABLES = torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
SAMPLER_TABLES = TABLES + 0.5 * torch.randn(4, 3, generator=GENERATOR, dtype=torch.float64)
RETURNS = torch.randn(9, generator=GENERATOR, dtype=torch.float64)


def logprobs_of(tables):
    logs = tables.log_softmax(1)
    return torch.stack([logs[0, FIRST], logs[1 + FIRST, SECOND]], 1)


def of_two_tokens(correction):
    return expected_gradient(correction, TABLES, logprobs_of, logprobs_of(SAMPLER_TABLES), RETURNS)


def gradient_of_the_return():
    tables = TABLES.clone().requires_grad_()
    return torch.autograd.grad((logprobs_of(tables).sum(1).exp() * RETURNS).sum(), tables)[0]


def test_rows_are_corrected_by_their_product_and_not_by_the_ratios_of_their_tokens():
    exact = gradient_of_the_return()
    assert torch.allclose(of_two_tokens(SequenceTis(INF)), exact, rtol=0, atol=1e-12)
    token_bias = (of_two_tokens(Tis(INF)) - exact).abs().max()
    assert 0.01 < token_bias < (of_two_tokens(NoCorrection()) - exact).abs().max()
