"""Hand-computed baselines of rae, its gradient by enumeration, and the order of use and update."""

from __future__ import annotations

import itertools

import pytest
import torch
import uncollapse
from credit_help import close, per_row, rows
from uncollapse.core.components import CreditInputs
from uncollapse.core.compose.problems import CompositionError
from uncollapse.estimators.advantage.rae import Rae, RaeSession


def test_each_episode_is_compared_with_the_average_of_those_before_it():
    session = Rae(0.5).start()
    close(per_row(session, [1.0, 0.0, 1.0], [1, 2, 3]), [1.0, -0.5, 0.75])
    assert session.metrics() == {"baseline": 0.625}
    close(per_row(session, [0.0, 0.625], [4, 9]), [-0.625, 0.3125])
    assert session.baseline == 0.46875


def test_the_members_of_a_group_are_compared_with_the_same_baseline():
    session = Rae(0.5).start()
    close(per_row(session, [1.0, 0.0, 1.0], [1, 1, 2]), [1.0, 0.0, 0.625])
    assert session.baseline == 0.6875


def test_the_rows_of_an_episode_count_once():
    session = Rae(0.5).start()
    close(per_row(session, [1.0, 1.0, 1.0, 0.0], [1, 1, 1, 1], episodes=[0, 0, 0, 1]), [1.0, 1.0, 1.0, 0.0])
    assert session.baseline == 0.375


def published(scores, decay, baseline):
    """Each episode against the baseline before it, which then moves: advantages, and the last baseline."""
    advantages = []
    for score in scores:
        advantages.append(score - baseline)
        baseline = decay * baseline + (1 - decay) * score
    return advantages, baseline


def test_groups_of_one_are_the_published_rule():
    scores = torch.randn(40, generator=torch.Generator().manual_seed(3)).tolist()
    session = Rae().start()
    expected, baseline = published(scores, 0.95, 0.0)
    first = per_row(session, scores[:15], list(range(15)))
    close(torch.cat([first, per_row(session, scores[15:], list(range(25)))]), expected)
    assert session.baseline == pytest.approx(baseline, abs=1e-6)


def test_a_group_moves_the_baseline_as_the_published_rule_does_over_all_orders_of_its_members():
    scores = [1.0, -0.5, 2.0, 0.25]
    session = RaeSession(0.8, 0.3)
    per_row(session, scores, [1] * 4)
    ends = [published(order, 0.8, 0.3)[1] for order in itertools.permutations(scores)]
    assert session.baseline == pytest.approx(sum(ends) / len(ends), abs=1e-9)


REWARDS = (1.0, 0.0, 0.25)


def enumerated(groups, advantages_of):
    """The expected gradient over all actions of ``len(groups)`` episodes, and that of the expected rewards."""
    theta = torch.tensor([0.4, -0.3, 0.1], dtype=torch.float64, requires_grad=True)
    log_pi = theta.log_softmax(0)
    total = 0.0
    for actions in itertools.product(range(3), repeat=len(groups)):
        chosen = log_pi[list(actions)]
        advantages = advantages_of([REWARDS[action] for action in actions], groups)
        total = total + chosen.sum().exp().detach() * (advantages.double() * chosen).sum()
    expected = len(groups) * (log_pi.exp() * torch.tensor(REWARDS, dtype=torch.float64)).sum()
    return tuple(torch.autograd.grad(value, theta, retain_graph=True)[0] for value in (total, expected))


@pytest.mark.parametrize("groups", [[1], [1, 2], [1, 1], [1, 1, 2, 2]])
def test_the_expected_gradient_is_that_of_the_expected_reward_whatever_the_baseline_is(groups):
    gradient, expected = enumerated(groups, lambda scores, groups: per_row(RaeSession(0.9, 0.37), scores, groups))
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=0)


def test_a_baseline_that_takes_the_score_first_has_a_gradient_smaller_by_the_decay():
    def update_first(scores, groups):
        return torch.tensor([score - (0.9 * 0.37 + 0.1 * score) for score in scores])

    gradient, expected = enumerated([1], update_first)
    torch.testing.assert_close(gradient, 0.9 * expected, atol=1e-6, rtol=0)


def test_returns_are_the_rewards_to_go_and_rows_without_tokens_are_not_seen():
    batch = rows([2.0, 4.0, 0.0], lengths=[2, 3, 1])
    batch["mask"][2] = False
    session = Rae(0.5).start()
    result = session.compute(CreditInputs(**batch, groups=torch.tensor([5, 5, 6])))
    assert result.returns.tolist() == [[2.0, 2.0, 0.0], [4.0, 4.0, 4.0], [0.0, 0.0, 0.0]]
    assert session.baseline == 2.25
    nothing = CreditInputs(**(batch | {"mask": torch.zeros_like(batch["mask"])}), groups=torch.tensor([5, 5, 6]))
    assert not session.compute(nothing).advantages.any()
    assert session.baseline == 2.25


def test_a_session_goes_on_from_its_state_and_each_run_has_its_own():
    estimator = Rae(0.5)
    session = estimator.start()
    per_row(session, [1.0], [1])
    resumed = estimator.start()
    resumed.load_state_dict(session.state_dict())
    close(per_row(resumed, [1.0], [1]), [0.5])
    close(per_row(estimator.start(), [1.0], [1]), [1.0])
    close(per_row(estimator, [1.0, 1.0], [1, 2]), [1.0, 0.5])


def test_rewards_without_a_mean_leave_nothing_to_average(bandit):
    for advantage in ("rae", "entrocraft(of=rae)"):
        settings = [f"advantage={advantage}", "reward.normalization=mean"]
        with pytest.raises(CompositionError, match="no average of earlier ones would be left"):
            uncollapse.compose(bandit, settings)
    assert uncollapse.compose(bandit, ["advantage=rae", "rollout.group_size=1", "trainer.mini_batch=2"])


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_a_decay_that_forgets_all_or_learns_nothing_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        Rae(decay)
