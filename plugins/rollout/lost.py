"""Groups whose episodes an environment has lost are dropped and named, as long as they are few."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from ...core.errors import RESUME, EpisodeLostError, RunError

_NAMED = 5
"""The number of reasons that a message tells."""


@attrs.frozen
class LostGroup:
    """A group that is dropped, because one of its episodes was lost. It is sent between processes."""

    seed: int
    """The environment seed of the group."""
    member: int
    """The first of its episodes that was lost."""
    error: EpisodeLostError
    """The reason."""

    @property
    def place(self) -> str:
        """The words that name the episode."""
        return f"the group of seed {self.seed}, member {self.member}"

    @property
    def reason(self) -> str:
        """The reason in one line, with the place that it names."""
        where = self.error.where
        return self.error.what if where in ("", self.place) else f"{self.error.what} ({where})"


def require_few_lost(lost: Sequence[LostGroup], groups: int, max_lost: float) -> str:
    """Return a warning that names the lost groups of ``groups``; empty if there is none.

    Raises:
        RunError: they are more than the share ``max_lost`` of the groups, or all of them.
    """
    if not lost:
        return ""
    if len(lost) > max_lost * groups + 1e-9 or len(lost) == groups:
        reasons = list(dict.fromkeys(group.reason for group in lost))
        told = "; ".join(reasons[1:_NAMED] + reasons[:1])  # the first one stands just before its place
        raise RunError(
            f"{len(lost)} of {groups} groups were lost, more than rollout.max_lost, {max_lost:g}, allows: {told}",
            lost[0].place,
            f"bring back what the environment needs, or raise rollout.max_lost or rollout.step_timeout, and continue "
            f"with {RESUME}",
        )
    named = "".join(f"\n  {group.place}: {group.reason}" for group in lost)
    return f"warning: {len(lost)} of {groups} groups were lost and are dropped:{named}"
