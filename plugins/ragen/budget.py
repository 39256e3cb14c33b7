"""The sweep ``budget`` splits a step's episodes into groups in several ways (RAGEN-2, table 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ...core.errors import RequestError
from ..report.claim import Claim
from ..sweeps.variation import Case
from .interventions import listed
from .reproduction import Algorithm, Filtering, base_settings, difference

TABLE_5 = {"64x2": (0.273, 0.188, -0.29), "32x4": (0.274, 0.242, -0.41), "8x16": (0.236, 0.156, -0.26)}
"""Peak success with and without filter, and the relative change of the time of a step, of Sokoban with PPO and 3B."""
SHAPE = re.compile(r"([1-9]\d{0,5})x([1-9]\d{0,5})")


@attrs.frozen(kw_only=True)
class Budget(Filtering):
    """Compare training with and without top-p filtering, for several shapes of the same number of episodes a step.

    A shape 8x16 has 8 groups of 16 episodes. Table 5 of RAGEN-2 claims of each that the filter raises the peak of
    validation success, and that a step takes less time. Give several ``--seeds``.
    """

    shapes: str = "64x2,32x4,8x16"
    """Groups x episodes of a group, with commas; all with the same product."""
    algorithm: Algorithm = "ppo"
    """Algorithm of all runs; own leaves it, with KL and entropy bonus, to the experiment."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping.

        Raises:
            RequestError: a shape cannot be read, or the shapes are of different size.
        """
        shapes = {word: _shape(word) for word in listed(self.shapes, "--shapes")}
        if len({groups * size for groups, size in shapes.values()}) > 1:
            counts = ", ".join(f"{word} = {groups * size}" for word, (groups, size) in shapes.items())
            raise RequestError(f"the shapes have different numbers of episodes: {counts}", fix="give all the same")
        selects = {"none": "nofilter", "top_p": self._filter()}
        cases = [
            Case(
                f"{word}-{'filter' if name == 'top_p' else 'nofilter'}",
                {"rollout.groups": groups, "rollout.group_size": size, "filter.select": select},
                {"shape": word, "filter": name},
            )
            for word, (groups, size) in shapes.items()
            for name, select in selects.items()
        ]
        return self._record(
            "budget",
            base_settings(self.algorithm),
            cases,
            lambda size: list(_claims(list(shapes))),
            options={
                "filter.select": "--filter-value",
                "rollout.groups": "--shapes",
                "rollout.group_size": "--shapes",
                "advantage": "--algorithm",
            },
        )


def _shape(word: str) -> tuple[int, int]:
    match = SHAPE.fullmatch(word)
    if not match:
        raise RequestError(f"--shapes has no shape in {word!r}", fix="write groups x episodes of a group, such as 8x16")
    groups, size = int(match[1]), int(match[2])
    if size < 2:
        fix = "write a second number of 2 or more"
        raise RequestError("a group of one episode has no reward variance to filter by", f"--shapes {word}", fix)
    return groups, size


def _claims(shapes: Sequence[str]) -> Iterator[Claim]:
    for word in shapes:
        with_it, without, faster = TABLE_5.get(word, (None, None, None))
        at, against = ({"shape": word, "filter": name} for name in ("top_p", "none"))
        source = "table 5: Sokoban, PPO, 3B" if word in TABLE_5 else f"table 5, which has no {word}"
        yield difference(f"top-p filtering raises peak success ({word})", source, at, against, (with_it, without))
        yield difference(
            f"a step takes less time with top-p filtering ({word})",
            source,
            at,
            against,
            measure="seconds",
            direction="lower",
            relative=True,
            figure=faster,
        )
