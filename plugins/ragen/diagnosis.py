"""The sweep ``diagnosis`` asks what goes with success within runs: mutual information, or entropy (RAGEN-2)."""

from __future__ import annotations

from typing import Any

import attrs

from ..report.claim import Claim, Term
from ..sweeps.variation import Case
from .reproduction import PAPER, Algorithm, Filtering, base_settings

INFORMATION = 0.39
"""Spearman's rank correlation of mutual information with success that the project page gives."""
ENTROPY = -0.11
"""That of entropy which is the nearest to 0; the others go down to -0.14."""


@attrs.frozen(kw_only=True)
class Diagnosis(Filtering):
    """Correlate mutual information and entropy with validation success, over the course of runs with and without top-p.

    RAGEN-2 claims that mutual information goes with success, and that entropy goes against it, so that high entropy is
    no sign of health. Correlations are taken within each run, at steps that measure both. Give several ``--seeds``.
    """

    algorithm: Algorithm = "ppo"
    """Algorithm of all runs; own leaves it, with KL and entropy bonus, to the experiment."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping."""
        cases = [
            Case(name, {"filter.select": select}, {"filter": name})
            for name, select in (("none", "nofilter"), ("top_p", self._filter()))
        ]
        options = {"advantage": "--algorithm", "filter.select": "--filter-value"}
        return self._record("diagnosis", base_settings(self.algorithm), cases, lambda size: _claims(), options=options)


def _claims() -> list[Claim]:
    note = "over which steps and runs the figure was taken is not known to us; ours is within runs, at equal steps"
    return [
        Claim(
            text="mutual information goes with success",
            source=f"{PAPER}, figures 5 and 8, project page",
            measure="information_with_success",
            terms=(Term(weight=1.0, at={}, figure=INFORMATION),),
            note=note,
        ),
        Claim(
            text="entropy goes against success",
            source=f"{PAPER}, figures 5 and 8, project page",
            measure="entropy_with_success",
            direction="lower",
            terms=(Term(weight=1.0, at={}, figure=ENTROPY),),
            note=f"{note}; its entropies have -0.11 to -0.14",
        ),
    ]
