"""Hand-computed numbers, and numbers that verl 0.6.1 and RAGEN-2 give for the same input."""

from __future__ import annotations

import pytest
import torch
from credit_help import close, per_row, rows
from uncollapse.core.components import CreditInputs
from uncollapse.core.errors import RunError
from uncollapse.estimators.advantage.bi_level_gae import BiLevelGae
from uncollapse.estimators.advantage.gae import Gae
from uncollapse.estimators.advantage.outcome import DrGrpo, Grpo, Opo, Rloo
from uncollapse.estimators.advantage.reinforce import ReinforcePlusPlus, ReinforcePlusPlusBaseline
from uncollapse.estimators.advantage.remax import Remax

REWARDS = torch.tensor([[0, 0, 0, 0, 0, 2.0], [0, 0, 0, 0, 0, -1]])
VALUES = torch.tensor([[0.1, 0.2, 0.9, 0.3, 0.4, 0.5], [0, 0.1, 0.9, 0.2, 0.1, 0.3]])
MASK = torch.tensor([[1, 1, 0, 1, 1, 1]] * 2, dtype=torch.bool)
GROUPS = torch.zeros(2, dtype=torch.long)
GROUP_ESTIMATORS = [Grpo(), DrGrpo(), Rloo(), Opo()]


class TestGae:
    def test_undiscounted(self):
        result = Gae(whiten=False).compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=VALUES))
        close(result.advantages, [[1.9, 1.8, 0, 1.7, 1.6, 1.5], [-1, -1.1, 0, -1.2, -1.1, -1.3]])
        close(result.returns, [[2, 2, 0, 2, 2, 2.0], [-1, -1, 0, -1, -1, -1]])

    def test_whitened(self):
        result = Gae().compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=VALUES))
        close(
            result.advantages,
            [
                [1.07824, 1.01169, 0, 0.94513, 0.87857, 0.81201],
                [-0.85195, -0.9185, 0, -0.98506, -0.9185, -1.05162],
            ],
        )
        close(result.returns, [[2, 2, 0, 2, 2, 2.0], [-1, -1, 0, -1, -1, -1]])

    def test_discounted(self):
        result = Gae(gamma=0.99, lam=0.95, whiten=False).compute(
            CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=VALUES)
        )
        close(
            result.advantages,
            [
                [1.52679, 1.51918, 0, 1.51216, 1.50575, 1.5],
                [-0.75142, -0.90422, 0, -1.06562, -1.02565, -1.3],
            ],
        )

    def test_lambda_zero_is_one_step(self):
        result = Gae(gamma=0.5, lam=0.0, whiten=False).compute(
            CreditInputs(rewards=REWARDS[:1], mask=MASK[:1], groups=GROUPS[:1], values=VALUES[:1])
        )
        close(result.advantages, [[0.0, -0.05, 0, -0.1, -0.15, 1.5]])

    def test_values_off_the_mask_are_never_read(self):
        poisoned = VALUES.clone()
        poisoned[~MASK] = torch.nan
        estimator = Gae(gamma=0.9, lam=0.9)
        clean = estimator.compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=VALUES))
        result = estimator.compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=poisoned))
        assert torch.equal(result.advantages, clean.advantages)
        assert torch.equal(result.returns, clean.returns)

    def test_one_token_is_whitened_to_zero(self):
        mask = torch.tensor([[False, True]])
        result = Gae().compute(
            CreditInputs(
                rewards=torch.tensor([[0, 5.0]]), mask=mask, groups=GROUPS[:1], values=torch.tensor([[9.0, 1.0]])
            )
        )
        close(result.advantages, [[0.0, 0.0]])
        close(result.returns, [[0.0, 5.0]])

    def test_gives_no_gradient_to_the_critic(self):
        values = VALUES.clone().requires_grad_()
        result = Gae().compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=values))
        assert not result.advantages.requires_grad
        assert not result.returns.requires_grad

    @pytest.mark.parametrize("name", ["gamma", "lam"])
    @pytest.mark.parametrize("value", [-0.1, 1.1])
    def test_discounts_are_fractions(self, name, value):
        with pytest.raises(ValueError, match=name):
            Gae(**{name: value})

    def test_says_that_values_are_missing(self):
        with pytest.raises(RunError, match="values"):
            Gae().compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS))


class TestBiLevelGae:
    rewards = torch.tensor([[0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0]])
    values = torch.arange(1, 11)[None, :] / 10
    mask = torch.ones(1, 10, dtype=torch.bool)
    turns = torch.tensor([[0] * 5 + [1] * 5])

    def compute(self, estimator, **changes):
        arguments = {"rewards": self.rewards, "mask": self.mask, "values": self.values, "turns": self.turns}
        return estimator.compute(CreditInputs(**{**arguments, **changes}, groups=GROUPS[:1]))

    def test_two_turns(self):
        result = self.compute(BiLevelGae(whiten=False))
        close(result.advantages, [[1.85, 1.75, 1.65, 1.55, 1.45, 0.4, 0.3, 0.2, 0.1, 0]])
        close(result.returns, [[1.95] * 5 + [1.0] * 5])

    def test_whitened(self):
        half = [1.188, 1.05957, 0.93113, 0.8027, 0.67427]
        close(self.compute(BiLevelGae()).advantages, [half + [-x for x in reversed(half)]])

    def test_a_turn_without_reward_is_still_a_turn(self):
        rewards = self.rewards.clone()
        rewards[0, 4] = 0.0
        result = self.compute(BiLevelGae(whiten=False), rewards=rewards)
        close(result.advantages, [[0.85, 0.75, 0.65, 0.55, 0.45, 0.4, 0.3, 0.2, 0.1, 0]])

    def test_one_turn_is_gae(self):
        result = self.compute(BiLevelGae(0.9, 0.8), turns=torch.zeros(1, 10, dtype=torch.long))
        plain = Gae(0.9, 0.8).compute(
            CreditInputs(rewards=self.rewards, mask=self.mask, groups=GROUPS[:1], values=self.values)
        )
        torch.testing.assert_close(result.advantages, plain.advantages)
        torch.testing.assert_close(result.returns, plain.returns)

    def test_turn_numbers_need_not_start_at_zero_in_each_row(self):
        twice = {name: getattr(self, name).repeat(2, 1) for name in ("rewards", "mask", "values")}
        result = BiLevelGae(whiten=False).compute(
            CreditInputs(**twice, groups=GROUPS, turns=torch.cat([self.turns, self.turns + 1]))
        )
        assert torch.equal(result.advantages[0], result.advantages[1])

    def test_says_that_turns_are_missing(self):
        with pytest.raises(RunError, match="turns"):
            self.compute(BiLevelGae(), turns=None)


class TestGroupEstimators:
    @pytest.mark.parametrize(
        ("estimator", "size"),
        [(Grpo(), 0.866024), (Grpo(scale=False), 0.5), (DrGrpo(), 0.5), (Rloo(), 2 / 3), (Opo(), 0.5)],
    )
    def test_two_of_four(self, estimator, size):
        close(per_row(estimator, [1.0, 0, 0, 1], [7, 7, 7, 7]), [size, -size, -size, size], atol=1e-6)

    def test_grpo_parameters(self):
        assert per_row(Grpo(ddof=0, eps=0.0), [1.0, 0, 0, 1], [0] * 4).tolist() == [1, -1, -1, 1]
        close(per_row(Grpo(ddof=0, eps=0.5), [1.0, 0, 0, 1], [0] * 4), [0.5, -0.5, -0.5, 0.5])

    def test_groups_are_told_apart_by_id_and_not_by_position(self):
        close(per_row(DrGrpo(), [1.0, 10, 3, 30], [5, -2, 5, -2]), [-1.0, -10, 1, 10])

    def test_opo_weighs_by_length(self):
        # baseline (1 * 1 + 3 * 0) / 4
        close(per_row(Opo(), [1.0, 0.0], [0, 0], lengths=[1, 3]), [0.75, -0.25])

    def test_opo_counts_the_tokens_of_all_rows_of_an_episode(self):
        # episode 0 has 1 + 2 tokens and score 1, episode 1 has 1 token and score 0
        close(per_row(Opo(), [1.0, 1, 0], [0, 0, 0], lengths=[1, 2, 1], episodes=[0, 0, 1]), [0.25, 0.25, -0.75])

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_an_episode_counts_once_however_many_rows_it_has(self, estimator):
        once = per_row(estimator, [1.0, 0, 0], [0, 0, 0], lengths=[4, 4, 4])
        split = per_row(estimator, [0.0, 1, 1, 0], [0, 0, 0, 0], lengths=[4, 2, 2, 4], episodes=[9, 4, 4, 1])
        close(split, [once[1], once[0], once[0], once[2]])

    def test_rows_that_differ_stand_for_their_episode_by_their_mean(self):
        # episode 0 scores (1 + 4) / 2, episode 1 scores 0.5: the mean of the group is 1.5
        close(per_row(DrGrpo(), [1.0, 4, 0.5], [0, 0, 0], episodes=[0, 0, 1]), [-0.5, 2.5, -1])
        # variance ((0.5^2 + 2.5^2) / 2 + 1^2) / (2 - 1) = 4.25
        close(per_row(Grpo(), [1.0, 4, 0.5], [0, 0, 0], episodes=[0, 0, 1]), [x / 4.25**0.5 for x in (-0.5, 2.5, -1)])

    def test_equal_episodes_of_rows_that_differ_do_not_explode(self):
        close(per_row(Grpo(), [1.0, 0, 0, 1], [0] * 4, episodes=[0, 0, 1, 1]), [1 / 2**0.5 * x for x in (1, -1, -1, 1)])

    def test_row_score_is_the_sum_of_its_turn_rewards(self):
        rewards = torch.tensor([[0.5, 0, 0.5], [0, 0, 0]])
        mask = torch.tensor([[True, False, True]] * 2)
        result = DrGrpo().compute(CreditInputs(rewards=rewards, mask=mask, groups=GROUPS))
        close(result.advantages, [[0.5, 0, 0.5], [-0.5, 0, -0.5]])
        close(result.returns, [[1.0, 0, 0.5], [0, 0, 0]])

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_equal_rewards_give_exactly_zero(self, estimator):
        # the float32 mean of seven 0.95 is not 0.95
        assert per_row(estimator, [0.95] * 7, [0] * 7, lengths=[1, 2, 3, 4, 5, 6, 7]).tolist() == [0.0] * 7

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_equal_sums_of_other_turn_rewards_give_exactly_zero(self, estimator):
        rewards = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0, 0, 0.6]])
        result = estimator.compute(
            CreditInputs(
                rewards=rewards, mask=torch.ones(3, 3, dtype=torch.bool), groups=torch.zeros(3, dtype=torch.long)
            )
        )
        assert not result.advantages.any()

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_one_odd_reward_does_not_explode(self, estimator):
        advantages = per_row(estimator, [0.95] * 7 + [0.0], [0] * 8)
        expected = {
            Grpo: (0.353553, -2.474864),
            DrGrpo: (0.11875, -0.83125),
            Rloo: (0.135714, -0.95),
            Opo: (0.11875, -0.83125),
        }
        alike, odd = expected[type(estimator)]
        close(advantages, [alike] * 7 + [odd])

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_a_group_of_one_gets_zero(self, estimator):
        close(per_row(estimator, [5.0, 1, 1], [0, 1, 1]), [0.0, 0, 0])
        close(per_row(estimator, [5.0, 7, 1, 1], [0, 0, 1, 1], episodes=[0, 0, 1, 2]), [0.0, 0, 0, 0])

    @pytest.mark.parametrize("estimator", GROUP_ESTIMATORS)
    def test_a_row_without_sampled_tokens_counts_nowhere(self, estimator):
        batch = rows([1.0, 0.0, 1.0])
        batch["mask"][2] = False
        batch["rewards"][2] = 0
        groups = torch.zeros(3, dtype=torch.long)
        with_it = estimator.compute(CreditInputs(**batch, groups=groups)).advantages
        without = estimator.compute(
            CreditInputs(**{key: x[:2] for key, x in batch.items()}, groups=groups[:2])
        ).advantages
        assert torch.equal(with_it[:2], without)
        assert not with_it[2].any()

    def test_parameters_are_checked(self):
        with pytest.raises(ValueError, match="eps"):
            Grpo(eps=-1.0)
        with pytest.raises(ValueError, match="ddof"):
            Grpo(ddof=2)
        with pytest.raises(ValueError, match="ddof"):
            Grpo(ddof=-1)
        assert Grpo(ddof=0, eps=0.0) != Grpo()


class TestReinforce:
    def test_plus_plus(self):
        # returns of row 0: 2 * 0.5 ** (sampled tokens to the end)
        returns = [[0.125, 0.25, 0, 0.5, 1, 2], [-0.0625, -0.125, 0, -0.25, -0.5, -1]]
        result = ReinforcePlusPlus(gamma=0.5).compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS))
        close(result.returns, returns)
        flat = torch.tensor(returns)[MASK]
        close(result.advantages[MASK], ((flat - flat.mean()) / flat.std()).tolist())
        assert not result.advantages[~MASK].any()

    def test_a_reward_reaches_the_turns_before_it(self):
        rewards = torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 0]])
        mask = torch.tensor([[True, False, False, True]] * 2)
        result = ReinforcePlusPlus().compute(CreditInputs(rewards=rewards, mask=mask, groups=GROUPS))
        close(result.returns, [[1.0, 0, 0, 1], [0, 0, 0, 0]])
        assert result.advantages[0, 0] > 0 > result.advantages[1, 0]

    def test_baseline(self):
        advantages = per_row(ReinforcePlusPlusBaseline(), [1.0, 0, 5, 5], [0, 0, 1, 1], lengths=[1, 3, 2, 2])
        flat = torch.tensor([0.5, -0.5, -0.5, -0.5, 0, 0, 0, 0])
        whitened = (flat - flat.mean()) / (flat.var() + 1e-8).sqrt()
        close(advantages, whitened[[0, 1, 4, 6]].tolist())

    def test_returns_of_baseline_are_undiscounted_rewards_to_go(self):
        rewards = torch.tensor([[0.5, 9, 2], [1, 0, -1]])
        mask = torch.tensor([[True, False, True], [True, True, True]])
        result = ReinforcePlusPlusBaseline().compute(CreditInputs(rewards=rewards, mask=mask, groups=GROUPS))
        close(result.returns, [[2.5, 0, 2], [0, -1, -1]])

    @pytest.mark.parametrize("estimator", [ReinforcePlusPlus(), ReinforcePlusPlusBaseline()])
    def test_equal_rewards_give_exactly_zero(self, estimator):
        assert per_row(estimator, [0.95] * 7, [0, 0, 0, 1, 1, 1, 1]).tolist() == [0.0] * 7


class TestRemax:
    def test_rewards_to_go_above_the_greedy_reward(self):
        rewards = torch.tensor([[1.0, 0, 2], [0, 0, 1]])
        mask = torch.tensor([[True, False, True]] * 2)
        result = Remax().compute(
            CreditInputs(rewards=rewards, mask=mask, groups=GROUPS, greedy_rewards=torch.tensor([0.5, 3.0]))
        )
        close(result.advantages, [[2.5, 0, 1.5], [-2, 0, -2]])
        close(result.returns, [[3.0, 0, 2], [1, 0, 1]])

    def test_says_that_greedy_rewards_are_missing(self):
        with pytest.raises(RunError, match="greedy_rewards"):
            Remax().compute(CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS))


@pytest.mark.parametrize(
    "estimator",
    [Gae(), BiLevelGae(), *GROUP_ESTIMATORS, ReinforcePlusPlus(), ReinforcePlusPlusBaseline(), Remax()],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_nothing_was_sampled(estimator, shape):
    zeros = torch.zeros(shape)
    result = estimator.compute(
        CreditInputs(
            rewards=zeros,
            mask=zeros.bool(),
            groups=zeros.new_zeros(shape[0]).long(),
            values=zeros,
            turns=zeros.long() - 1,
            greedy_rewards=zeros.new_zeros(shape[0]),
        )
    )
    assert torch.equal(result.advantages, zeros)
    assert torch.equal(result.returns, zeros)


class TestGaeOfTwoLambdas:
    GIVEN = CreditInputs(rewards=REWARDS, mask=MASK, groups=GROUPS, values=VALUES)

    def test_the_critic_learns_with_its_own_lambda(self):
        both = Gae(gamma=0.99, lam=0.95, critic_lam=0.5, whiten=False).compute(self.GIVEN)
        policy = Gae(gamma=0.99, lam=0.95, whiten=False).compute(self.GIVEN)
        critic = Gae(gamma=0.99, lam=0.5, whiten=False).compute(self.GIVEN)
        assert torch.equal(both.advantages, policy.advantages)
        assert torch.equal(both.returns, critic.returns)
        assert not torch.equal(policy.returns, critic.returns)

    def test_the_lambda_of_the_advantages_grows_with_the_length(self):
        # five sampled tokens: 1 - 1 / (0.4 * 5) = 0.5
        by_length = Gae(lam=0.9, critic_lam=1.0, length_alpha=0.4, whiten=False).compute(self.GIVEN)
        half = Gae(lam=0.5, whiten=False).compute(self.GIVEN)
        assert torch.equal(by_length.advantages, half.advantages)
        close(by_length.returns, [[2, 2, 0, 2, 2, 2.0], [-1, -1, 0, -1, -1, -1]])
        # without a lambda of its own the critic takes lam
        assert torch.equal(Gae(lam=0.5, length_alpha=3.0, whiten=False).compute(self.GIVEN).returns, half.returns)

    def test_rows_have_lambdas_of_their_own(self):
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
        rewards = torch.tensor([[0, 0, 0, 1.0], [0, 1.0, 0, 0]])
        values = torch.full((2, 4), 0.5)
        result = Gae(length_alpha=0.5, whiten=False).compute(
            CreditInputs(rewards=rewards, mask=mask, groups=GROUPS, values=values)
        )
        # lambdas 1 - 1 / 2 and max(0, 1 - 1 / 1); every delta is 0 but the last, 0.5
        close(result.advantages, [[0.0625, 0.125, 0.25, 0.5], [0.0, 0.5, 0, 0]])

    @pytest.mark.parametrize("params", [{"critic_lam": 1.1}, {"length_alpha": 0.0}, {"length_alpha": float("nan")}])
    def test_what_is_no_lambda_is_refused(self, params):
        with pytest.raises(ValueError, match=r"critic_lam|length_alpha"):
            Gae(**params)
