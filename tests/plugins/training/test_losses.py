import math

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core.components import LossInputs, Scores
from uncollapse.estimators.aggregation import (
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    SeqMeanTokenSumNorm,
    TokenMean,
    TokenSum,
)
from uncollapse.estimators.correction.sequence import SequenceMask, SequenceTis
from uncollapse.estimators.correction.token import IcePop, Tis
from uncollapse.estimators.kl.variants import K1, K3
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.training.step.batch import Batch, shares
from uncollapse.plugins.training.step.losses import CriticObjective, JointObjective, PolicyObjective

AGGREGATIONS = (TokenMean(), TokenSum(), SeqMeanTokenSum(), SeqMeanTokenMean(), SeqMeanTokenSumNorm())


def one_row(**tensors):
    mask = torch.tensor([[False, True, True]])
    rows = {name: torch.tensor([value]) for name, value in tensors.items()}
    return Batch(tokens=torch.zeros(1, 3, dtype=torch.long), mask=mask, lengths=torch.tensor([3]), **rows)


def test_policy_objective_by_hand():
    # ratios 1 and 2 at advantages 1 and 1: losses -1 and -1.28 (clipped), token mean -1.14; entropy mean 0.5
    logprobs = torch.tensor([[0.0, -1.0, -1.0]])
    batch = one_row(old_logprobs=[0.0, -1.0, -1.0 - 0.6931472], advantages=[9.0, 1.0, 1.0], weights=[0.0, 0.5, 0.5])
    scores = Scores(logprobs=logprobs, entropies=torch.tensor([[7.0, 0.4, 0.6]]))
    loss, metrics = PolicyObjective(Ppo(), entropy_coef=0.1)(scores, batch)
    assert float(loss) == pytest.approx(-1.14 - 0.1 * 0.5, abs=1e-5)
    assert [float(x) for x in metrics["entropy"]] == pytest.approx([1.0, 2])
    assert [float(x) for x in metrics["pg_clipfrac"]] == pytest.approx([1.0, 2])


def test_kl_enters_the_loss_with_its_coefficient():
    batch = one_row(
        old_logprobs=[0.0, -1.0, -1.0], ref_logprobs=[0.0, -1.0, -2.0], advantages=[0.0, 0, 0], weights=[0.0, 0.5, 0.5]
    )
    scores = Scores(logprobs=torch.tensor([[0.0, -1.0, -1.0]]), entropies=torch.zeros(1, 3))
    loss, metrics = PolicyObjective(Ppo(), kl=K3(), kl_coef=0.2)(scores, batch)
    k3 = torch.tensor(-1.0).exp().item() + 1 - 1
    assert float(loss) == pytest.approx(0.2 * k3 / 2, abs=1e-6)
    assert float(metrics["kl"][0]) == pytest.approx(k3, abs=1e-6)


def test_without_a_coefficient_the_kl_is_only_told():
    batch = one_row(old_logprobs=[0.0, -1.0, -1.0], ref_logprobs=[0.0, -1.0, -3.0], advantages=[0.0, 1, 1])
    batch = attrs.evolve(batch, weights=torch.tensor([[0.0, 0.5, 0.5]]))
    scores = Scores(logprobs=torch.tensor([[0.0, -1.0, -1.0]]), entropies=torch.ones(1, 3))
    loss, metrics = PolicyObjective(Ppo(), kl=K1())(scores, batch)
    assert float(loss) == -1.0 and float(metrics["kl"][0]) == 2.0


def test_critic_objective_by_hand():
    # v 1.0 -> 2.0, clipped to 1.5, target 3: (2-3)^2 = 1 < (1.5-3)^2 = 2.25
    batch = one_row(old_values=[0.0, 1.0, 1.0], returns=[0.0, 3.0, 1.0], weights=[0.0, 0.5, 0.5])
    loss, metrics = CriticObjective(0.5)(Scores(values=torch.tensor([[0.0, 2.0, 1.0]])), batch)
    assert float(loss) == pytest.approx(0.5 * 0.5 * 2.25)
    assert float(metrics["vf_clipfrac"][0]) == 1


@given(
    value=st.floats(-3, 3),
    old=st.floats(-3, 3),
    target=st.floats(-3, 3),
    clip=st.floats(0.1, 2),
    weight=st.floats(0.1, 1),
)
def test_the_critics_loss_is_half_the_larger_of_two_squared_errors(value, old, target, clip, weight):
    batch = one_row(old_values=[0.0, old, old], returns=[0.0, target, target], weights=[0.0, weight, 0.0])
    loss, metrics = CriticObjective(clip)(Scores(values=torch.tensor([[0.0, value, value]])), batch)
    near = min(max(value, old - clip), old + clip)
    assert float(loss) == pytest.approx(weight * 0.5 * max((value - target) ** 2, (near - target) ** 2), abs=1e-5)
    assert float(metrics["vf_loss"][1]) == 1  # a token without weight does not train


@pytest.mark.parametrize(
    ("value", "loss", "clipped"),
    [
        (0.0, 0.5 * 0.8**2, 0),  # moved away from the target beyond the clip: the whole error counts
        (0.9, 0.5 * 0.1**2, 0),
        (3.0, 0.5 * 2.2**2, 0),
        (1.6, 0.5 * 0.8**2, 0),
    ],
)
def test_critic_objective_where_the_new_value_errs_more(value, loss, clipped):
    batch = one_row(old_values=[0.0, 1.0, 1.0], returns=[0.0, 0.8, 0.8], weights=[0.0, 1.0, 0.0])
    total, metrics = CriticObjective(0.5)(Scores(values=torch.tensor([[0.0, value, value]])), batch)
    assert float(total) == pytest.approx(loss, abs=1e-6)
    assert float(metrics["vf_clipfrac"][0]) == clipped


def test_the_kl_term_is_multiplied_by_its_importance_weight():
    # ratio 2 on the second token; k1 = 1 and 0.5
    batch = one_row(
        old_logprobs=[0.0, -1.0, -1.0 - math.log(2)],
        ref_logprobs=[0.0, -2.0, -1.5],
        advantages=[0.0, 0, 0],
        weights=[0.0, 0.5, 0.5],
    )
    scores = Scores(logprobs=torch.tensor([[0.0, -1.0, -1.0]]), entropies=torch.zeros(1, 3))
    for weight, expected in (("none", (1.0 + 0.5) / 2), ("detached", (1.0 + 2 * 0.5) / 2)):
        loss, _ = PolicyObjective(Ppo(), kl=K1(), kl_coef=0.2, kl_weight=weight)(scores, batch)
        assert float(loss) == pytest.approx(0.2 * expected, abs=1e-6)


def test_a_shared_critic_adds_its_weighted_loss_to_the_policys():
    batch = one_row(
        old_logprobs=[0.0, -1.0, -1.0],
        advantages=[0.0, 1.0, -3.0],
        old_values=[0.0, 1.0, 1.0],
        returns=[0.0, 2.0, 1.0],
        weights=[0.0, 0.5, 0.5],
    )
    scores = Scores(
        logprobs=torch.tensor([[0.0, -1.0, -1.0]]), entropies=torch.zeros(1, 3), values=torch.tensor([[0.0, 1.0, 3.0]])
    )
    policy, critic = PolicyObjective(Ppo()), CriticObjective(9.0)
    # policy: -(1 - 3) / 2 = 1; critic: 0.5 * (1 + 4) / 2 = 1.25
    loss, metrics = JointObjective(policy, critic, 0.3)(scores, batch)
    assert float(loss) == pytest.approx(1 + 0.3 * 1.25)
    assert float(metrics["critic/vf_loss"][0]) == pytest.approx(2.5)
    alone, _ = JointObjective(None, critic, 0.3)(scores, batch)
    assert float(alone) == pytest.approx(0.3 * 1.25)


def test_nothing_off_the_mask_can_reach_the_loss():
    nan = float("nan")
    batch = one_row(old_logprobs=[nan, -1.0, -1.0], advantages=[nan, 1.0, 1.0], weights=[0.0, 0.5, 0.5])
    logprobs = torch.tensor([[nan, -1.0, -1.0]], requires_grad=True)
    loss, _ = PolicyObjective(Ppo(), entropy_coef=0.1)(Scores(logprobs=logprobs, entropies=torch.zeros(1, 3)), batch)
    assert float(loss) == pytest.approx(-1.0)
    gradient = torch.autograd.grad(loss, logprobs)[0]
    assert gradient[0, 1:].tolist() == [-0.5, -0.5]


@settings(max_examples=40, deadline=None)
@given(
    aggregation=st.sampled_from(AGGREGATIONS), ranks=st.integers(1, 3), size=st.integers(1, 4), seed=st.integers(0, 50)
)
def test_any_partition_into_micro_batches_and_ranks_has_the_same_gradient(batches, aggregation, ranks, size, seed):
    batch = batches(seed=seed)
    batch = attrs.evolve(batch, weights=aggregation.weights(batch.mask, 50))
    objective = PolicyObjective(Ppo(), 0.03, K3(), 0.1, "differentiable")
    theta = torch.linspace(-0.5, 0.5, 61, dtype=torch.float64, requires_grad=True)

    def gradient(micro_batches):
        total = torch.zeros(61, dtype=torch.float64)
        for rows in micro_batches:
            scores = Scores(logprobs=-4 + theta[rows.tokens], entropies=theta[rows.tokens] ** 2)
            total += torch.autograd.grad(objective(scores, rows)[0], theta)[0]
        return total

    whole = gradient([batch])
    cut = [micro_batch for own in shares(batch, range(len(batch)), ranks, size) for micro_batch in own]
    assert whole.abs().max() > 0
    assert torch.allclose(gradient(cut), whole, rtol=1e-5, atol=1e-6)


def test_a_correction_weighs_the_policy_loss_and_nothing_else():
    # losses -1 and 2 with ratios 1.5 and 3 (dropped): mean -0.75 over both tokens, plus entropy and KL unweighted
    batch = one_row(
        old_logprobs=[0.0, -1.0, -1.0],
        ref_logprobs=[0.0, -2.0, -1.5],
        advantages=[9.0, 1.0, -2.0],
        weights=[0.0, 0.5, 0.5],
        sampler_logprobs=[5.0, -1.0 - math.log(1.5), -1.0 - math.log(3)],
    )
    logprobs = torch.tensor([[0.0, -1.0, -1.0]], requires_grad=True)
    scores = Scores(logprobs=logprobs, entropies=torch.tensor([[7.0, 0.4, 0.6]]))
    loss, metrics = PolicyObjective(Ppo(), 0.1, K1(), 0.2, correction=IcePop(0, 2))(scores, batch)
    assert float(loss) == pytest.approx(-0.75 - 0.1 * 0.5 + 0.2 * 0.75)
    assert [float(x) for x in metrics["pg_loss"]] == pytest.approx([-1.5, 2])
    assert torch.autograd.grad(loss, logprobs)[0][0].tolist() == pytest.approx([0, -0.75 + 0.1, 0.1])


def test_a_sampler_that_is_the_trainer_needs_no_correction(batches):
    batch = batches()
    batch = attrs.evolve(batch, weights=TokenMean().weights(batch.mask, 1), sampler_logprobs=batch.old_logprobs)
    scores = Scores(logprobs=batch.old_logprobs + 0.1, entropies=batch.returns.abs())
    plain = PolicyObjective(Ppo(), 0.03)(scores, batch)[0]
    assert torch.equal(plain, PolicyObjective(Ppo(), 0.03, correction=Tis())(scores, batch)[0])


def test_without_old_logprobs_a_correction_takes_those_of_this_pass():
    batch = one_row(advantages=[9.0, 1.0, -2.0], weights=[0.0, 0.5, 0.5], sampler_logprobs=[5.0, -2.0, -1.5])
    logprobs = torch.tensor([[0.0, -1.5, -2.0]], requires_grad=True)
    objective = PolicyObjective(Ppo(), correction=Tis(10.0))
    loss, _ = objective(Scores(logprobs=logprobs, entropies=torch.zeros(1, 3)), batch)
    # ratios to the sampler exp(0.5), exp(-0.5), as constants: gradients -A w / 2
    assert float(loss) == pytest.approx(-0.5 * math.exp(0.5) + math.exp(-0.5), abs=1e-5)
    expected = [0.0, -0.5 * math.exp(0.5), math.exp(-0.5)]
    assert torch.autograd.grad(loss, logprobs)[0][0].tolist() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=40)
@given(
    correction=st.sampled_from([Tis(1.1), IcePop(0.8, 1.3), SequenceTis(), SequenceMask("mean", 0.9, 1.2)]),
    aggregation=st.sampled_from(AGGREGATIONS),
    ranks=st.integers(1, 3),
    size=st.integers(1, 4),
    seed=st.integers(0, 50),
)
def test_with_a_correction_too_any_partition_has_the_same_gradient(batches, correction, aggregation, ranks, size, seed):
    batch = batches(seed=seed)
    sampler = batch.old_logprobs - 0.3 * batch.returns
    corrections, _ = correction.correction(batch.old_logprobs, sampler, batch.mask)
    batch = attrs.evolve(batch, weights=aggregation.weights(batch.mask, 50), sampler_logprobs=sampler)
    objective = PolicyObjective(Ppo(), correction=correction)
    theta = torch.linspace(-0.5, 0.5, 61, dtype=torch.float64, requires_grad=True)

    def gradient(micro_batches):
        total = torch.zeros(61, dtype=torch.float64)
        for rows in micro_batches:
            scores = Scores(logprobs=-4 + theta[rows.tokens], entropies=theta[rows.tokens] ** 2)
            total += torch.autograd.grad(objective(scores, rows)[0], theta)[0]
        return total

    # by hand: each token's weight in the step, its correction, and the gradient of the loss without one
    logprobs = (-4 + theta.detach()[batch.tokens]).requires_grad_()
    each = torch.autograd.grad(
        Ppo()(LossInputs(logprobs, batch.old_logprobs, batch.advantages, batch.mask))[0].sum(), logprobs
    )[0]
    whole = torch.zeros(61, dtype=torch.float64)
    whole.index_add_(0, batch.tokens.flatten(), (batch.weights * corrections * each).flatten())
    cut = [micro_batch for own in shares(batch, range(len(batch)), ranks, size) for micro_batch in own]
    assert torch.allclose(gradient([batch]), whole, rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient(cut), whole, rtol=1e-5, atol=1e-6)
