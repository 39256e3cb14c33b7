"""The laws of filters, of groups and of episodes, and of group metrics."""

from __future__ import annotations

import torch

from ...core.compose.named import Named
from ...core.errors import RunError
from ...plugins.training.step.borders import CheckedEpisodeFilter, CheckedFilter, CheckedMetric
from .. import samples
from ..problems import laws, require

ORDER = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])


def _selects(named: Named) -> None:
    """A filter gives one bool for each group and leaves the scores as they are."""
    select = CheckedFilter(named).select
    for scores_P in (samples.scores_P(), torch.zeros(4), torch.tensor([0.3]), torch.rand(16).double()):
        select(scores_P)


def _says_the_same_twice(named: Named) -> None:
    """A filter keeps the same groups when it is asked again."""
    select, scores_P = CheckedFilter(named).select, samples.scores_P()
    require(named, "select", torch.equal(select(scores_P), select(scores_P)), "kept other groups at a second call")


def _refuses_nan(named: Named) -> None:
    """A filter raises RunError where a score is NaN."""
    scores_P = samples.scores_P()
    scores_P[2] = torch.nan
    # such a filter is not asked, because nobody computes scores for it
    if named.component.keeps_all:
        return
    try:
        CheckedFilter(named).select(scores_P)
    except RunError:
        return
    require(named, "select", False, "took a score of NaN", "raise uncollapse.core.errors.RunError on NaN")


def _follows_the_groups(named: Named) -> None:
    """A filter keeps a group because of its score, not because of its position."""
    scores_P = samples.scores_P()
    select = CheckedFilter(named).select
    same = torch.equal(select(scores_P[ORDER]), select(scores_P)[ORDER])
    require(named, "select", same, "kept other groups when the same groups came in another order")


def _selects_episodes(named: Named) -> None:
    """An episode filter gives one bool for each episode and leaves the rollouts as they are."""
    select = CheckedEpisodeFilter(named).select
    sampled = samples.rollouts(named.component.needs)
    select(sampled)
    for group in range(len(sampled.group_ids_P)):
        select(sampled.select(torch.arange(len(sampled.group_ids_P)) == group))


def _selects_the_same_episodes_twice(named: Named) -> None:
    """An episode filter keeps the same episodes when it is asked again."""
    select, needs = CheckedEpisodeFilter(named).select, named.component.needs
    same = torch.equal(select(samples.rollouts(needs)), select(samples.rollouts(needs)))
    require(named, "select", same, "kept other episodes at a second call")


def _selects_by_group(named: Named) -> None:
    """An episode filter's choice in a group does not depend on the order of the groups."""
    sampled, order_P = samples.rollouts(named.component.needs), torch.tensor([2, 0, 3, 1])
    select = CheckedEpisodeFilter(named).select
    order_E = torch.cat([(sampled.groups == sampled.group_ids_P[p]).nonzero().flatten() for p in order_P])
    moved_E = select(samples.reordered(sampled, order_P))
    what = "kept other episodes when the groups came in another order: follow rollouts.groups_of_episodes()"
    require(named, "select", torch.equal(moved_E, select(sampled)[order_E]), what)


def _keeps_all_as_it_says(named: Named) -> None:
    """An episode filter that says that it keeps all keeps every episode."""
    sampled = samples.rollouts(named.component.needs)
    kept = not named.component.keeps_all or bool(CheckedEpisodeFilter(named).select(sampled).all())
    require(named, "select", kept, "drops episodes although it says that it keeps all, and is never asked")


def _scores(named: Named) -> None:
    """A metric gives one finite number for each group and leaves the rollouts as they are."""
    CheckedMetric(named).score(samples.rollouts(named.needs))


def _scores_by_group(named: Named) -> None:
    """A metric's score of a group does not depend on the other groups, or on their order."""
    sampled = samples.rollouts(named.needs)
    score = CheckedMetric(named).score
    scores_P, order_P = score(sampled), torch.tensor([2, 0, 3, 1])
    moved_P = score(samples.reordered(samples.rollouts(), order_P))
    what = "gave a group another score when the groups came in another order: follow rollouts.group_ids_P"
    require(named, "score", torch.allclose(moved_P, scores_P[order_P], atol=1e-5), what)
    keep_P = torch.tensor([True, False, True, True])
    what = "gave a group another score when another group was left out"
    require(named, "score", torch.allclose(score(sampled.select(keep_P)), scores_P[keep_P], atol=1e-5), what)


LAWS = {
    "rollout_filter": laws(_selects, _says_the_same_twice, _refuses_nan, _follows_the_groups),
    "episode_filter": laws(
        _selects_episodes, _selects_the_same_episodes_twice, _selects_by_group, _keeps_all_as_it_says
    ),
    "group_metric": laws(_scores, _scores_by_group),
}
