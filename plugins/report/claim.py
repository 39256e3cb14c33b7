"""A claim is a sentence that a sweep can test: a contrast of its settings, and the sign that it should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs
from attrs import validators

MeasureName = Literal["peak", "information", "seconds", "information_with_success", "entropy_with_success"]
Direction = Literal["higher", "lower", "not higher"]


@attrs.frozen(kw_only=True)
class Term:
    """A term is the mean over the runs of a setting, with a weight."""

    weight: float
    at: Mapping[str, str]
    """Value of each axis that the setting fixes, both as text; runs are averaged over all others."""
    figure: float | None = None
    """Number that the source gives for the setting, if it gives one."""


@attrs.frozen(kw_only=True)
class Claim:
    """A claim says of a contrast, the weighted sum of its terms, that it is above or below a bound.

    ``higher`` and ``lower`` claim the sign of the contrast. ``not higher`` claims that it is below ``margin``: that
    something is of no use can be shown only up to a size.
    """

    text: str
    """The claim in words."""
    source: str
    """Publication with the table, figure or section that makes the claim."""
    measure: MeasureName
    """Number of a run that is compared; see :data:`.claim_check.CLAIMED`."""
    terms: tuple[Term, ...] = attrs.field(validator=validators.min_len(1))
    direction: Direction = "higher"
    relative: bool = False
    """Whether the contrast is one of logarithms, and is given as a relative change: -0.29 is 29 % less."""
    margin: float = attrs.field(default=0.0, validator=validators.ge(0))
    """Smallest contrast that would matter, for ``not higher``."""
    figure: float | None = None
    """Contrast that the source gives; without it, that of the figures of the terms."""
    note: str = ""
    """What to know of the source's figures."""

    @property
    def claimed(self) -> float | None:
        """The contrast in the source's figures, if it gives them."""
        if self.figure is not None or self.relative:
            return self.figure
        figures = [None if term.figure is None else term.weight * term.figure for term in self.terms]
        known = [figure for figure in figures if figure is not None]
        return sum(known) if len(known) == len(figures) else None


def without_points(claims: Iterable[Claim], points: Iterable[Mapping[str, str]]) -> list[tuple[Claim, Term]]:
    """Return the terms of claims that no point of a sweep is part of: axis -> value of each point."""
    places = list(points)
    return [
        (claim, term) for claim in claims for term in claim.terms if not any(is_at(place, term.at) for place in places)
    ]


def is_at(place: Mapping[str, str], setting: Mapping[str, str]) -> bool:
    """Say whether a point with these values is part of the setting."""
    return all(place.get(axis) == value for axis, value in setting.items())
