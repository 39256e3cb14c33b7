"""GiGPO by hand: three episodes of one task, and one of another that looks the same."""

from __future__ import annotations

import attrs
import pytest
import torch
import uncollapse
from credit_help import close
from uncollapse.api import CompositionError
from uncollapse.core.components import CreditInputs
from uncollapse.estimators.advantage.outcome import Grpo
from uncollapse.estimators.advantage.states import GiGpo

TURNS = torch.tensor([[0, 0, -1, 1], [0, -1, 1, 2], [0, -1, -1, 1], [0, 0, -1, 1]])
STATES = torch.tensor([[5, 5, -1, 6], [5, -1, 6, 5], [5, -1, -1, 7], [5, 5, -1, 6]])
BATCH = CreditInputs(
    rewards=torch.tensor([[0, 0, 0, 1.0], [0, 0, 0, 0], [0, 0, 0, 1.0], [0, 0, 0, 1.0]]),
    mask=TURNS >= 0,
    groups=torch.tensor([3, 3, 3, 4]),
    turns=TURNS,
    states=STATES,
    episodes=torch.arange(4),
)


def test_turns_of_the_same_state_are_compared():
    result = GiGpo(gamma=0.5, scale=False, weight=2.0).compute(BATCH)
    # returns of turns: 0.5, 1 | 0, 0, 0 | 0.5, 1; in state 5 of group 3: 0.5, 0, 0, 0.5, in state 6: 1, 0
    turn = torch.tensor([[0.25, 0.25, 0, 0.5], [-0.25, 0, -0.5, -0.25], [0.25, 0, 0, 0], [0, 0, 0, 0]])
    episode = torch.tensor([1 / 3, -2 / 3, 1 / 3, 0])[:, None] * BATCH.mask
    close(result.advantages, (episode + 2 * turn).tolist())
    close(result.returns, (BATCH.rewards.flip(1).cumsum(1).flip(1) * BATCH.mask).tolist())


def test_both_advantages_are_standardised():
    result = GiGpo(gamma=0.5, eps=0.0).compute(BATCH)
    episode = Grpo(eps=0.0).compute(BATCH).advantages
    # stds 0.288675 of (0.5, 0, 0, 0.5) and 0.707107 of (1, 0)
    close((result.advantages - episode)[0], [0.866025, 0.866025, 0, 0.707107])
    close((result.advantages - episode)[1], [-0.866025, 0, -0.707107, -0.866025])


def test_a_weight_of_zero_is_grpo():
    assert torch.equal(GiGpo(weight=0.0).compute(BATCH).advantages, Grpo().compute(BATCH).advantages)


def test_rewards_of_turns_count_where_they_were_earned():
    rewards = torch.tensor([[0, 2.0, 0, 1.0], [0, 0, 0, 0], [0, 0, 0, 1.0], [0, 0, 0, 1.0]])
    result = GiGpo(gamma=0.0, scale=False).compute(attrs.evolve(BATCH, rewards=rewards))
    # state 5: 2, 0, 0, 0
    close(
        (result.advantages - Grpo(scale=False).compute(attrs.evolve(BATCH, rewards=rewards)).advantages)[0],
        [1.5, 1.5, 0, 0.5],
    )


def test_equal_rewards_get_exactly_zero():
    equal = attrs.evolve(BATCH, rewards=torch.where(TURNS == 0, 0.0, 0.0))
    assert not GiGpo().compute(equal).advantages.any()


def test_rows_of_single_turns_are_refused(bandit):
    with pytest.raises(CompositionError, match=r"gigpo: follows the turns .* rollout.context_window is single_turn"):
        uncollapse.compose(bandit, ("advantage=gigpo", "rollout.context_window=single_turn", "rollout.max_turns=2"))


@pytest.mark.parametrize("advantage", ["gigpo", "otb", "entrocraft(of=otb)", "gae(critic_lam=1.0, length_alpha=0.5)"])
def test_a_run_hands_over_what_they_need(bandit, tmp_path, advantage):
    overrides = (f"advantage={advantage}", "trainer.steps=1", "rollout.max_turns=2", "validation.every=0")
    result = uncollapse.train(uncollapse.compose(bandit, overrides), tmp_path / "run")
    assert result.status == "success"
