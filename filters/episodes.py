"""Episode filters say which episodes of the kept groups train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor

from ..core.components import EpisodeFilter, Rollouts
from ..core.errors import RunError


@attrs.frozen
class AllEpisodes(EpisodeFilter):
    """Keep every episode of the groups that the rollout filter has kept.

    Rollouts of E episodes -> bool [E].
    """

    @property
    def keeps_all(self) -> bool:
        """Whether every episode is kept whatever it is like, so that nobody needs to ask."""
        return True

    def select(self, rollouts: Rollouts) -> Tensor:
        return torch.ones_like(rollouts.raw_rewards_E, dtype=torch.bool)


def _count(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{attribute.name} must be a count: 1, 2, ..., got {value}")


@attrs.frozen
class BestWorst(EpisodeFilter):
    """Keep the ``k`` best and the ``k`` worst episodes of each group, by their raw reward.

    Equal rewards are told apart by the order of the episodes: of those, the first count as better. A group of at most
    ``2 * k`` episodes keeps all. In the statistics of the advantages a group then consists of what is left of it.

    Rollouts of E episodes -> bool [E]. Source: the trajectory filter of RAGEN-2 (arXiv 2604.06268, table 7).
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"k": 4}

    k: int = attrs.field(validator=_count)
    """Episodes to keep at each end, at least 1."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield why it cannot work: the best episodes of a group must not be its worst as well."""
        if 2 * self.k > (size := experiment.rollout.group_size):
            yield (
                f"keeps the best {self.k} and the worst {self.k} of each group, and a group has rollout.group_size = "
                f"{size} episodes: set k to at most {size // 2}, or filter.episodes to all"
            )

    def select(self, rollouts: Rollouts) -> Tensor:
        groups_E = rollouts.groups_of_episodes()
        keep_E = torch.zeros_like(groups_E, dtype=torch.bool)
        for group in rollouts.group_ids_P:
            places_G = (groups_E == group).nonzero().flatten()
            order_G = rollouts.raw_rewards_E[places_G].argsort(descending=True, stable=True)
            keep_E[places_G[order_G[: self.k]]] = True
            keep_E[places_G[order_G[-self.k :]]] = True
        return keep_E


@attrs.frozen
class DropTruncated(EpisodeFilter):
    """Drop the episodes that a limit of turns, actions or tokens has ended.

    What they would have earned is unknown, and punishing an unfinished thought teaches short ones.

    Rollouts of E episodes -> bool [E]. Source: overlong filtering of DAPO (arXiv 2503.14476), which TRL calls
    ``mask_truncated_completions``. There the tokens of such an episode do not train, but its reward stays in the
    statistics of its group; here it is gone from both.
    """

    def select(self, rollouts: Rollouts) -> Tensor:
        if rollouts.truncated_E is None:
            raise RunError(
                "the rollouts do not say which episodes a limit has ended",
                "rollouts.truncated_E",
                "hand over rollouts with it, as a run does",
            )
        return ~rollouts.truncated_E
