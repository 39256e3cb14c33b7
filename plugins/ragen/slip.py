"""The sweep ``slip`` makes outcomes of actions random, a variance that teaches nothing (RAGEN-2, figure 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from ...core import describe
from ...core.compose.config import compose
from ...core.errors import RequestError
from ...core.registry import registry
from ..report.claim import Claim, Term
from ..sweeps.variation import Case
from .interventions import listed, number
from .reproduction import MARGIN, PAPER, Algorithm, Filtering, base_settings

SURE, RANDOM = 50, 80
"""Percentages of slips up to which, and from which on, the paper's figure shows a gain and none."""
NOTE = "The figure has no numbers."


@attrs.frozen(kw_only=True)
class Slip(Filtering):
    """Compare training with and without top-p filtering on a frozen lake, for several probabilities of a slip.

    Figure 9 of RAGEN-2 claims a gain in peak success up to 50 % slips, which is gone at 80 to 100 %: then reward
    variance is noise. A step goes the intended way with probability 1 - slip. As in its script, groups without variance
    are dropped by the filter. Give several ``--seeds``.
    """

    experiment: str = "frozen-lake"
    """Registered experiment or YAML file whose environment has a success_rate."""
    slips: str = "0,20,50,80,100"
    """Slips in percent, with commas."""
    algorithm: Algorithm = "ppo"
    """Algorithm of all runs; own leaves it, with KL and entropy bonus, to the experiment."""

    def record(self) -> dict[str, Any]:
        """Return the sweep as a mapping.

        Raises:
            RequestError: the environment has no slips, a value is no percentage, or no claim is about any of them.
        """
        self._refuse_without_slips()
        slips = {word: _percentage(word) for word in listed(self.slips, "--slips")}
        claims = list(_claims(slips))
        if not claims:
            what = f"no claim is about slips above {SURE} % and below {RANDOM} % alone"
            raise RequestError(what, f"--slips {self.slips}", "add slips at one of the ends")
        selects = {"none": "nofilter", "top_p": self._filter(include_zero=False)}
        cases = [
            Case(
                f"slip{word}-{'filter' if name == 'top_p' else 'nofilter'}",
                {"environment.success_rate": round(1 - percent / 100, 9), "filter.select": select},
                {"slip": word, "filter": name},
            )
            for word, percent in slips.items()
            for name, select in selects.items()
        ]
        return self._record(
            "slip",
            base_settings(self.algorithm),
            cases,
            lambda size: claims,
            options={
                "filter.select": "--filter-value",
                "environment.success_rate": "--slips",
                "advantage": "--algorithm",
            },
        )

    def _refuse_without_slips(self) -> None:
        experiment = compose(self.experiment)
        environment = experiment.environment
        target = registry().resolve("environment", environment.name)
        if all(parameter.name != "success_rate" for parameter in describe.parameters(target)):
            raise RequestError(
                f"actions never slip in the environment {environment.name}: the claims cannot be tested",
                str(self.experiment),
                "take an experiment with frozen_lake, such as frozen-lake",
            )
        if "success_rate" in experiment.validation.environment:
            what = "validation has slips of its own, so that the sweep would not change them"
            raise RequestError(what, "validation.environment", "leave success_rate out there")


def _percentage(word: str) -> float:
    value = number(word, "--slips")
    if not 0 <= value <= 100:
        raise RequestError(f"--slips has {word}, which is no percentage", fix="give numbers from 0 to 100")
    return value


def _claims(slips: dict[str, float]) -> Iterator[Claim]:
    """Yield the claims that these slips (word -> percentage) can test."""
    sure = [word for word, percent in slips.items() if percent <= SURE]
    random = [word for word, percent in slips.items() if percent >= RANDOM]
    if sure:
        yield _gain(f"top-p filtering raises peak success up to {SURE} % slips", sure)
    if random:
        text = f"top-p filtering does not raise peak success from {RANDOM} % slips on"
        yield _gain(text, random, direction="not higher", margin=MARGIN)
    if sure and random:
        yield _gain(f"the gain is larger up to {SURE} % slips than from {RANDOM} % on", sure, random)


def _gain(text: str, slips: Sequence[str], less: Sequence[str] = (), **more: Any) -> Claim:
    """Return a claim about the mean gain of the filter at some slips, less that at others."""
    terms = tuple(
        Term(weight=sign * way / len(words), at={"slip": word, "filter": name})
        for sign, words in ((1.0, slips), (-1.0, less))
        for word in words
        for name, way in (("top_p", 1.0), ("none", -1.0))
    )
    return Claim(text=text, source=f"{PAPER}, figure 9: FrozenLake", measure="peak", terms=terms, note=NOTE, **more)
