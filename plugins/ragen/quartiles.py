"""The sweep ``quartiles`` trains on one quarter of the groups by reward variance (RAGEN-2, table 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs

from ..report.claim import Claim, MeasureName, Term
from ..sweeps.variation import Case
from .reproduction import PAPER, Algorithm, Reproduction, base_settings

QUARTILES = ("Q1", "Q2", "Q3", "Q4")
SUCCESS = (0.211, 0.195, 0.107, 0.110)
INFORMATION = (0.95, 0.93, 0.81, 0.73)
"""Peak success and mutual information of Sokoban with PPO and 3B, trained on each quarter."""
OUTER = (1.0, 0.0, 0.0, -1.0)
HALVES = (0.5, 0.5, -0.5, -0.5)


@attrs.frozen(kw_only=True)
class Quartiles(Reproduction):
    """Train on one quarter of the groups at a time, from the largest reward variance (Q1) to the smallest (Q4).

    Table 6 of RAGEN-2 claims that reward variance is the cause: what trains on groups with much of it succeeds more
    often, and keeps more mutual information of prompts and thoughts. Give several ``--seeds``.
    """

    algorithm: Algorithm = "ppo"
    """Algorithm of all runs; own leaves it, with KL and entropy bonus, to the experiment."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        cases = [
            Case(name, {"filter.select": f"quantile({at / 4}, {(at + 1) / 4})"}, {"quartile": name})
            for at, name in enumerate(QUARTILES)
        ]
        options = {"advantage": "--algorithm"}
        settings = base_settings(self.algorithm)
        return self._record("quartiles", settings, cases, lambda size: list(_claims()), options=options)


def _claims() -> Iterator[Claim]:
    measures: list[tuple[MeasureName, str, tuple[float, ...]]] = [
        ("peak", "success is higher", SUCCESS),
        ("information", "more mutual information is left", INFORMATION),
    ]
    for measure, what, figures in measures:
        for where, weights in (
            ("for the half with the larger reward variance", HALVES),
            ("for the first quarter than for the last one", OUTER),
        ):
            terms = tuple(
                Term(weight=weight, at={"quartile": name}, figure=figure)
                for name, weight, figure in zip(QUARTILES, weights, figures, strict=True)
                if weight
            )
            yield Claim(
                text=f"{what} {where}", source=f"{PAPER}, table 6: Sokoban, PPO, 3B", measure=measure, terms=terms
            )
