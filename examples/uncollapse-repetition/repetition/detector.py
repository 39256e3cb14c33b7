"""The detector finds policies that repeat themselves."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from uncollapse.core.components import CollapseDetector, CollapseSession, Rollouts, Verdict

METRIC = "collapse/repetition"


@attrs.frozen
class Repetition(CollapseDetector):
    """Give a verdict when too large a share of the phrases in a row has occurred before in that row.

    A phrase is ``length`` sampled tokens in a row. ``collapse/repetition`` is the mean over rows of 1 - distinct / all
    phrases; a row with fewer than two phrases counts as 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    length: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    """Number of tokens of a phrase."""
    most: float = attrs.field(default=0.5, validator=[attrs.validators.gt(0), attrs.validators.lt(1)])
    """Largest share of repeated phrases without a verdict."""
    window: int = attrs.field(default=3, validator=attrs.validators.ge(1))
    """Number of steps in a row above ``most``, before the verdict."""
    stop: bool = True
    """Whether the verdict stops the run; ``false`` records it and lets the run go on."""

    def start(self, context: Any) -> Session:
        return Session(self)


class Session(CollapseSession):
    """A session is what a detector does in one run; only sessions have state."""

    def __init__(self, rule: Repetition) -> None:
        self.rule, self.above = rule, 0

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        shares = []
        for tokens, mask in zip(rollouts.tokens, rollouts.mask, strict=True):
            sampled = tokens[mask].tolist()
            starts = range(len(sampled) - self.rule.length + 1)
            phrases = [tuple(sampled[start : start + self.rule.length]) for start in starts]
            shares.append(1 - len(set(phrases)) / len(phrases) if phrases else 0.0)
        return {METRIC: sum(shares) / len(shares)}

    def judge(self, step: int, metrics: Any) -> Verdict | None:
        """Read nothing but logged metrics, so that ``uncollapse detect`` can replay it over a finished run."""
        if METRIC not in metrics:
            return None
        self.above = self.above + 1 if metrics[METRIC] > self.rule.most else 0
        if self.above < self.rule.window:
            return None
        reason = f"more than {self.rule.most:.0%} of the phrases were repeated in {self.above} steps in a row"
        return Verdict("repetition", step, reason, {METRIC: metrics[METRIC]}, self.rule.stop)

    def state_dict(self) -> dict[str, Any]:
        return {"above": self.above}

    def load_state_dict(self, state: Any) -> None:
        self.above = state["above"]
