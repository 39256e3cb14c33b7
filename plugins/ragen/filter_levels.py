"""The sweep ``filters`` compares filtering groups with filtering the episodes within groups (RAGEN-2, table 7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ...core.compose.config import compose
from ...core.errors import RequestError
from ..report.claim import Claim, MeasureName
from ..sweeps.variation import Case
from .reproduction import Algorithm, Filtering, base_settings, difference

SUCCESS = {"none": 0.129, "groups": 0.236, "episodes": 0.168}
INFORMATION = {"none": 0.83, "groups": 1.80, "episodes": 0.20}
"""Peak success and mutual information of Sokoban with PPO and 3B, by what is filtered."""


@attrs.frozen(kw_only=True)
class FilterLevels(Filtering):
    """Compare no filter, top-p over groups, and the best and worst episodes of every group.

    Table 7 of RAGEN-2 claims that filtering groups raises peak success and mutual information, and that filtering
    episodes does less for success and lowers mutual information. Give several ``--seeds``.
    """

    algorithm: Algorithm = "ppo"
    """Algorithm of all runs; own leaves it, with KL and entropy bonus, to the experiment."""
    best_worst: int = 0
    """Episodes that are kept at each end of a group; 0 is a quarter of the group, so that half of it is kept."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping.

        Raises:
            RequestError: the best and worst episodes are the whole group, so that nothing is filtered.
        """
        size = compose(self.experiment).rollout.group_size
        kept = self.best_worst or max(1, size // 4)
        if kept < 1 or 2 * kept >= size:
            raise RequestError(
                f"the best {kept} and the worst {kept} of {size} episodes filter nothing or make no sense",
                "--best-worst",
                f"give a number from 1 to {(size - 1) // 2}" if size > 2 else "set rollout.group_size to 3 or more",
            )
        settings = base_settings(self.algorithm)
        del settings["filter.episodes"]
        selects = {"none": ("nofilter", "all"), "groups": (self._filter(), "all")}
        selects["episodes"] = ("nofilter", f"best_worst({kept})")
        cases = [
            Case(name, {"filter.select": select, "filter.episodes": episodes}, {"filtered": name})
            for name, (select, episodes) in selects.items()
        ]
        return self._record(
            "filters",
            settings,
            cases,
            lambda size: list(_claims()),
            options={
                "filter.select": "--filter-value",
                "filter.episodes": "--best-worst",
                "advantage": "--algorithm",
            },
            # the number of episodes that are kept is a part of the experiment's groups
            fixed={"rollout.group_size": "--best-worst counts episodes of the experiment's groups"},
        )


def _claims() -> Iterator[Claim]:
    yield _than("filtering groups raises peak success", "groups", "none", "peak")
    yield _than("filtering groups raises peak success more than filtering episodes", "groups", "episodes", "peak")
    yield _than("filtering episodes raises peak success", "episodes", "none", "peak")
    yield _than("filtering groups keeps mutual information", "groups", "none", "information")
    yield _than("filtering episodes loses mutual information", "episodes", "none", "information")


def _than(text: str, one: str, other: str, measure: MeasureName) -> Claim:
    figures = SUCCESS if measure == "peak" else INFORMATION
    return difference(
        text,
        "table 7: Sokoban, PPO, 3B",
        {"filtered": one},
        {"filtered": other},
        (figures[one], figures[other]),
        measure=measure,
        direction="higher" if figures[one] > figures[other] else "lower",
    )
