"""The loss of the update against losses written by hand, and its derivatives by forward mode against its gradients."""

import sys
from pathlib import Path

import attrs
import pytest
import torch
from uncollapse.estimators.advantage.outcome import Rloo
from uncollapse.estimators.kl.variants import K2, K3, K1Plus
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.probe.estimation.directions import PreconditionedGradient
from uncollapse.plugins.probe.estimation.passes import Passes, inner, norm, trained
from uncollapse.plugins.probe.estimation.step import Step
from uncollapse.plugins.probe.estimation.update import make_update, weights
from uncollapse.plugins.training.step.losses import PolicyObjective
from uncollapse.plugins.training.step.stages import to_batch

sys.path.insert(0, str(Path(__file__).parent))
import exact_model as exact

PROMPTS, G = 5, 4
WEIGHTINGS = ("dr_grpo", "per_token_avg", "token-mean", "seq-mean-token-sum", "seq-mean-token-mean")


@pytest.fixture(scope="module")
def played():
    """A policy and 5 prompts with 4 responses each, of many lengths; rewards differ within every group."""
    policy = exact.ExactPolicy(1)
    rollouts = exact.sample(policy, PROMPTS, G, torch.Generator().manual_seed(2))
    lengths = rollouts.mask.sum(1).reshape(PROMPTS, G)
    assert len(lengths.unique()) == exact.LENGTH and len(lengths.amax(1).unique()) > 1
    return policy, rollouts


def reference(rollouts, seed=9):
    """[B, T] log-probs of a reference, NaN where nothing was sampled."""
    noise = torch.rand(rollouts.mask.shape, generator=torch.Generator().manual_seed(seed))
    return torch.where(rollouts.mask, -0.5 - noise, torch.nan)


def by_hand(policy, rollouts, weighting, kl_coef=0.0, entropy_coeff=0.0, ref=None):
    """-J, written as sums over prompts and responses, for plain autograd."""
    scores = policy(to_batch(rollouts), "gradient")
    loss, sampled = 0.0, int(rollouts.mask.sum())
    for p in range(PROMPTS):
        rows = range(p * G, (p + 1) * G)
        mean = sum(float(rollouts.raw_rewards_E[row]) for row in rows) / G
        longest = max(int(rollouts.mask[row].sum()) for row in rows)
        for row in rows:
            mask = rollouts.mask[row]
            lp, H, T = scores["logprobs"][row][mask], scores["entropies"][row][mask], int(mask.sum())
            each = {
                "dr_grpo": 1 / (PROMPTS * G * longest),
                "per_token_avg": 1 / (PROMPTS * G * T),
                "token-mean": 1 / sampled,
                "seq-mean-token-sum": 1 / (PROMPTS * G),
                "seq-mean-token-mean": 1 / (PROMPTS * G * T),
            }[weighting]
            tokens = -(float(rollouts.raw_rewards_E[row]) - mean) * lp - entropy_coeff * H
            if kl_coef:
                tokens = tokens + kl_coef * (lp - ref[row][mask]) ** 2 / 2
            loss = loss + each * tokens.sum()
    return loss


def gradient_of(policy, loss):
    return dict(zip(trained(policy), torch.autograd.grad(loss, list(trained(policy).values())), strict=True))


def step_of(policy, update, size=3):
    return Step(policy, update, PreconditionedGradient(exact.adam_of(policy)), size=size, ranks=exact.ONE)


# weights and advantages are float32: 1e-7
def same(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    size = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance * size, msg=name)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_gradient_is_that_of_the_loss_written_by_hand(played, weighting):
    policy, rollouts = played
    found = step_of(policy, exact.update_of(rollouts, weighting=weighting)).gradient
    same(found, gradient_of(policy, by_hand(policy, rollouts, weighting)))


@pytest.mark.parametrize("weighting", ["dr_grpo", "per_token_avg"])
def test_a_response_without_tokens_has_no_weight_and_counts_as_one(played, weighting):
    """In the first group one response is empty, in the second all are."""
    _, rollouts = played
    mask = rollouts.mask.clone()
    mask[0], mask[G : 2 * G] = False, False
    rewards = torch.where(mask, rollouts.rewards, 0.0)
    table = weights(attrs.evolve(rollouts, mask=mask, rewards=rewards), weighting)
    assert bool(table.isfinite().all()) and bool((table[~mask] == 0).all())
    for row in range(PROMPTS * G):
        group = range(row // G * G, row // G * G + G)
        length = int(mask[row].sum()) if weighting == "per_token_avg" else max(int(mask[each].sum()) for each in group)
        assert table[row][mask[row]].tolist() == pytest.approx(
            [1 / (PROMPTS * G * max(length, 1))] * int(mask[row].sum())
        )


def test_weightings_differ(played):
    _, rollouts = played
    tables = [weights(rollouts, weighting) for weighting in WEIGHTINGS]
    for table in tables:
        assert bool((table[~rollouts.mask] == 0).all()) and bool((table[rollouts.mask] > 0).all())
    # per_token_avg is seq-mean-token-mean where an episode is one row
    assert torch.allclose(tables[1], tables[4])
    for one in range(4):
        for other in range(one):
            assert not torch.allclose(tables[one], tables[other])


@pytest.mark.parametrize("weighting", ["dr_grpo", "token-mean"])
def test_kl_term_and_entropy_bonus_are_in_the_gradient(played, weighting):
    policy, rollouts = played
    ref = reference(rollouts)
    objective = PolicyObjective(Ppo(), 0.3, K2(), 0.2)
    found = step_of(policy, exact.update_of(rollouts, objective, weighting=weighting, ref_logprobs=ref)).gradient
    same(found, gradient_of(policy, by_hand(policy, rollouts, weighting, 0.2, 0.3, ref)))
    for kl, bonus in ((0.2, 0.0), (0.0, 0.3), (0.0, 0.0)):
        other = gradient_of(policy, by_hand(policy, rollouts, weighting, kl, bonus, ref))
        assert norm({n: found[n] - other[n] for n in found}) > 1e-3 * norm(found)


OBJECTIVES = {
    "plain": PolicyObjective(Ppo()),
    "no room": PolicyObjective(Ppo(clip_low=0.0, clip_high=0.0)),
    "no dual clip": PolicyObjective(Ppo(dual_clip=None)),
    "entropy": PolicyObjective(Ppo(), 0.3),
    "kl k2": PolicyObjective(Ppo(), 0.0, K2(), 0.2),
    "kl k3": PolicyObjective(Ppo(), 0.1, K3(), 0.2),
    "kl k1 plus": PolicyObjective(Ppo(), 0.1, K1Plus(), 0.2),
    "weighted kl": PolicyObjective(Ppo(), 0.1, K3(), 0.2, "differentiable"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_forward_mode_rates_of_tokens_are_inner_products_with_gradients(played, name):
    """Of each sequence, along any direction: detached ratios, clipping, KL and entropy terms alike."""
    policy, rollouts = played
    update = exact.update_of(rollouts, OBJECTIVES[name], ref_logprobs=reference(rollouts))
    v = exact.direction_of(policy, 6)
    rates = Passes(policy, update.batch, 7, exact.ONE).loss_rates(update.loss, v)
    assert bool((rates[~rollouts.mask] == 0).all())
    found = update.per_sequence(rates)
    for row in range(PROMPTS * G):
        own = Passes(policy, update.batch.take([row]), 1, exact.ONE).loss_gradient(update.loss)
        assert float(found[row]) == pytest.approx(inner(own, v), rel=1e-9, abs=1e-12), row
    assert len(found.unique()) > PROMPTS
    whole = inner(step_of(policy, update).gradient, v)
    assert float(rates.sum()) == pytest.approx(whole, rel=1e-9)
    by_prompt = update.per_prompt(rates)
    assert by_prompt.tolist() == pytest.approx(found.reshape(PROMPTS, G).sum(1).tolist())


def test_at_ratio_1_ppo_is_the_plain_policy_gradient_whatever_its_bounds(played):
    policy, rollouts = played
    plain, no_room = (step_of(policy, exact.update_of(rollouts, OBJECTIVES[n])).gradient for n in ("plain", "no room"))
    same(no_room, plain, 1e-12)


def test_gradients_of_prompts(played):
    policy, rollouts = played
    update = exact.update_of(rollouts, OBJECTIVES["kl k3"], ref_logprobs=reference(rollouts))
    step = step_of(policy, update)
    found = list(step.prompt_gradients())
    assert len(found) == PROMPTS
    same({n: sum(g[n] for g in found) / PROMPTS for n in found[0]}, step.gradient, 1e-12)
    v = exact.direction_of(policy, 6)
    rates = update.per_prompt(step.passes.loss_rates(update.loss, v))
    for own, rate in zip(found, rates.tolist(), strict=True):
        assert inner(own, v) == pytest.approx(PROMPTS * rate, rel=1e-9)


def test_prompts_of_any_order_and_number(played):
    """Groups are told by their ids, whatever these are and wherever their rows stand."""
    policy, rollouts = played
    rows = torch.randperm(PROMPTS * G, generator=torch.Generator().manual_seed(0))
    fields = ("tokens", "mask", "turns", "logprobs", "rewards", "groups", "lengths")
    ids, order = torch.tensor([40, 7, 99, 3, 12]), torch.tensor([3, 1, 4, 0, 2])
    mixed = attrs.evolve(
        rollouts,
        **{name: getattr(rollouts, name)[rows] for name in fields},
        raw_rewards_E=rollouts.raw_rewards_E[rows],
    )
    mixed = attrs.evolve(mixed, groups=ids[mixed.groups], group_ids_P=ids[torch.tensor([2, 0, 1, 4, 3])])
    one, other = (step_of(policy, exact.update_of(r)) for r in (rollouts, mixed))
    same(other.gradient, one.gradient, 1e-6)
    v = exact.direction_of(policy, 6)
    shares = one.update.per_prompt(one.passes.loss_rates(one.update.loss, v))
    # both in the order of the ids: [M] of per_prompt and of the gradients of prompts must mean the same prompts
    rates = other.update.per_prompt(other.passes.loss_rates(other.update.loss, v))
    assert rates.tolist() == pytest.approx(shares[order].tolist(), rel=1e-5)
    for own, rate in zip(other.prompt_gradients(), rates.tolist(), strict=True):
        assert inner(own, v) == pytest.approx(PROMPTS * rate, rel=1e-9)


def test_other_advantages(played):
    policy, rollouts = played
    plain = step_of(policy, exact.update_of(rollouts)).gradient
    update = make_update(rollouts, advantage=Rloo(), objective=PolicyObjective(Ppo()))
    same(step_of(policy, update).gradient, {n: G / (G - 1) * g for n, g in plain.items()})
    # multiplied, as for a task that is turned around
    same(step_of(policy, exact.update_of(rollouts)).scaled(-2.0).gradient, {n: -2 * g for n, g in plain.items()})
    nothing = step_of(policy, exact.update_of(rollouts)).scaled(0.0).gradient
    assert all(bool((g == 0).all()) for g in nothing.values())


@pytest.mark.parametrize("size", [1, 3, 20])
def test_nan_behind_the_mask_does_not_spread(played, size):
    policy, rollouts = played
    ref = reference(rollouts)
    update = exact.update_of(rollouts, OBJECTIVES["kl k3"], ref_logprobs=torch.where(rollouts.mask, ref, 0.0))
    batch = attrs.evolve(
        update.batch,
        ref_logprobs=ref,
        advantages=torch.where(rollouts.mask, update.batch.advantages, torch.nan),
        old_logprobs=None,
    )
    dirty = attrs.evolve(update, batch=batch)
    same(step_of(policy, dirty, size).gradient, step_of(policy, update, size).gradient, 0)
    v = exact.direction_of(policy, 6)
    rates = [Passes(policy, u.batch, size, exact.ONE).loss_rates(u.loss, v) for u in (dirty, update)]
    assert torch.equal(*rates)
