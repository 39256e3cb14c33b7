"""Hand-computed numbers of the estimators that make up for rare success."""

from __future__ import annotations

import pytest
import torch
from credit_help import close, per_row
from uncollapse.estimators.advantage.sparse import Gpg, MaxRl, PassAtK


class TestMaxRl:
    def test_a_success_weighs_one_over_the_success_rate_less_one(self):
        close(per_row(MaxRl(eps=0.0), [1.0, 0, 0, 0], [7] * 4), [3.0, -1, -1, -1])
        close(per_row(MaxRl(), [1.0, 3, 2, 4], [0, 0, 1, 1]), [-0.5, 0.5, -1 / 3, 1 / 3])
        assert float(per_row(MaxRl(eps=0.5), [1.0, 0], [0, 0])[0]) == pytest.approx(0.5)

    @pytest.mark.parametrize("scores", [[0.0, 0, 0], [1.0, -1, 0], [0.5, -1, -2]])
    def test_a_group_whose_mean_is_not_positive_gets_nothing(self, scores):
        assert not per_row(MaxRl(), scores, [3, 3, 3]).any()


class TestPassAtK:
    def test_only_the_best_gets_its_lead(self):
        close(per_row(PassAtK(scale=False), [0.2, 0.9, 0.5, 1.0, 0], [1, 1, 1, 2, 2]), [0, 0.4, 0, 1, 0])
        # stds 0.351188 and 0.707107
        close(per_row(PassAtK(), [0.2, 0.9, 0.5, 1.0, 0], [1, 1, 1, 2, 2]), [0, 1.138986, 0, 1.414212, 0])

    def test_those_who_share_the_best_score_get_nothing(self):
        assert not per_row(PassAtK(), [1.0, 1.0, 0.0], [1, 1, 1]).any()

    def test_the_best_of_failures_is_the_best(self):
        close(per_row(PassAtK(scale=False), [-1.0, -3.0], [1, 1]), [2.0, 0])

    def test_all_rows_of_the_best_episode_get_its_lead(self):
        close(per_row(PassAtK(scale=False), [1.0, 0, 1.0], [1, 1, 1], episodes=[5, 6, 5]), [1.0, 0, 1.0])


class TestGpg:
    def test_the_fewer_are_rewarded_the_more_each_counts(self):
        close(per_row(Gpg(), [1.0, 0, 0, 0], [1, 1, 2, 2]), [2.0, -2, 0, 0])
        close(per_row(Gpg(), [1.0, 0, 1.0, 1.0], [1, 1, 2, 2]), [2 / 3, -2 / 3, 0, 0])
        close(per_row(Gpg(f_norm=4), [1.0, 0, 0, 0], [1, 1, 2, 2]), [0.5, -0.5, 0, 0])

    def test_an_episode_of_several_rows_counts_once(self):
        # four episodes, one rewarded
        rows = per_row(Gpg(), [1.0, 1.0, 0, 0, 0], [1, 1, 1, 2, 2], episodes=[0, 0, 1, 2, 3])
        close(rows, [2.0, 2.0, -2, 0, 0])

    def test_without_any_reward_there_is_nothing_to_divide_by(self):
        assert not per_row(Gpg(), [0.0, 0, 0], [1, 1, 1]).any()


@pytest.mark.parametrize("estimator", [MaxRl(), PassAtK(), Gpg()])
def test_equal_scores_and_groups_of_one_get_exactly_zero(estimator):
    assert not per_row(estimator, [0.95] * 7 + [0.3], [1] * 7 + [2]).any()


@pytest.mark.parametrize("estimator", [MaxRl(eps=0), PassAtK(eps=0)])
def test_the_scale_of_the_rewards_does_not_matter(estimator):
    scores = [0.5, 0.25, 1.0, 0.75, 0.125]
    groups = [1, 1, 1, 2, 2]
    torch.testing.assert_close(
        per_row(estimator, scores, groups), per_row(estimator, [8 * score for score in scores], groups)
    )
