"""Controllers that measure the entropy and move the coefficient against what they see.

They are told of the policy that sampled before its update, so that the coefficient of a step answers that step's own
entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs import validators

from ...core.components import EntropyController, EntropyControllerSession
from ...core.compose.experiment import Experiment
from .checks import at_least_low, finite, measured, starts_within


@attrs.frozen
class Adaptive(EntropyController):
    """Raise the coefficient by ``delta`` while the entropy is low, lower it while it is high, and apply it only if low.

    At each step with entropy H (nats per token): ``c <- min(c + delta, high)`` where ``H <= target``, else
    ``c <- max(c - delta, low)``; the coefficient of the step is c where ``H <= target``, and 0 elsewhere. c begins at
    ``entropy.coef``. The target should lie near the entropy that the first steps have: the default speaks only when
    there is next to none.

    Source: Skywork-OR1 (arXiv 2505.22312); rule, defaults and ties as in TRL's ``use_adaptive_entropy``. TRL applies
    to each step what the step before has measured, since it measures in the update; here the step itself is measured
    before it, so that the same coefficients come a step earlier.
    """

    target: float = attrs.field(default=0.2, validator=[validators.gt(0), finite])
    """Entropy to keep, in nats per token."""
    delta: float = attrs.field(default=0.005, validator=[validators.gt(0), finite])
    """Amount by which the coefficient moves in a step, per nat."""
    low: float = attrs.field(default=0.0, validator=finite)
    """Smallest coefficient."""
    high: float = attrs.field(default=1.0, validator=at_least_low)
    """Largest coefficient."""
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    @property
    def target_entropies(self) -> tuple[float, ...]:  # type: ignore[override]
        """The entropy to keep."""
        return (self.target,)

    def start(self, coef: float, steps: int) -> AdaptiveSession:
        return AdaptiveSession(coef, coef, self)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this controller."""
        return starts_within(experiment.entropy.coef, self.low, self.high)


@attrs.define
class AdaptiveSession(EntropyControllerSession):
    """The session of ``adaptive``: the coefficient that applies, and the one that it holds in the meantime."""

    coef: float
    held: float
    rule: Adaptive

    def update(self, entropy: float, step: int) -> None:
        """Move by the entropy in nats. Raises RunError where it is not finite; nothing has moved then."""
        rule, low = self.rule, measured(entropy) <= self.rule.target
        self.held = min(self.held + rule.delta, rule.high) if low else max(self.held - rule.delta, rule.low)
        self.coef = self.held if low else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef, "held": self.held}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef, self.held = float(state["coef"]), float(state["held"])


@attrs.frozen
class Pi(EntropyController):
    """Hold the entropy at a target by a proportional and an integral part.

    At each step with entropy H (nats per token) and error ``e = target - H``: ``I <- I + e``, and the coefficient is
    ``clip(entropy.coef + kp * e + ki * I, low, high)``. The integral takes away the error that a proportional rule
    leaves. It does not wind up: while the coefficient stands at a bound, I is not moved further beyond it, so that it
    turns in the step in which the error does.

    Units: ``kp`` and ``ki`` per nat squared. Source: the idea is that of EntroPIC (arXiv 2511.15248), which weighs
    positive and negative samples by such a rule, where this one moves the entropy bonus; the constants are therefore
    this project's own.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"target": 0.2}

    target: float = attrs.field(validator=[validators.gt(0.0), finite])
    """Entropy to keep, in nats per token."""
    kp: float = attrs.field(default=0.05, validator=[validators.ge(0), finite])
    """Weight of the error."""
    ki: float = attrs.field(default=0.005, validator=[validators.ge(0), finite])
    """Weight of the sum of errors."""
    low: float = attrs.field(default=-0.1, validator=finite)
    """Smallest coefficient; a negative one takes entropy away."""
    high: float = attrs.field(default=0.1, validator=at_least_low)
    """Largest coefficient."""
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    def __attrs_post_init__(self) -> None:
        if self.kp == 0 == self.ki:
            raise ValueError("kp and ki are both 0: nothing would move (that is the controller fixed)")
        if self.low == self.high:
            raise ValueError(f"low and high are both {self.low}: nothing could move (that is the controller fixed)")

    @property
    def target_entropies(self) -> tuple[float, ...]:  # type: ignore[override]
        """The entropy to keep."""
        return (self.target,)

    def start(self, coef: float, steps: int) -> PiSession:
        return PiSession(coef, coef, self)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this controller."""
        return starts_within(experiment.entropy.coef, self.low, self.high)


@attrs.define
class PiSession(EntropyControllerSession):
    """The session of ``pi``, with the sum of the errors in nats."""

    coef: float
    begin: float
    rule: Pi
    integral: float = 0.0

    def update(self, entropy: float, step: int) -> None:
        """Move by the entropy in nats. Raises RunError where it is not finite; nothing has moved then."""
        rule, error = self.rule, self.rule.target - measured(entropy)
        integral = self.integral + error
        wanted = self.begin + rule.kp * error + rule.ki * integral
        self.coef = min(max(wanted, rule.low), rule.high)
        # beyond a bound the sum may only come back
        if not (wanted > rule.high and error > 0) and not (wanted < rule.low and error < 0):
            self.integral = integral

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef, "integral": self.integral}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef, self.integral = float(state["coef"]), float(state["integral"])


@attrs.frozen
class Epo(EntropyController):
    """Keep the entropy within a band around the mean of its own history.

    With h the mean of the entropies of all steps before (nats per token), the coefficient is ``entropy.coef`` while
    ``low * h <= H <= high * h``, that plus ``weight`` below the band, and that less ``weight`` above it. The gradient
    is the one of ``- coef * H + weight * (max(0, low * h - H) + max(0, H - high * h))``. The first step has no history.

    Source: EPO (arXiv 2509.22576), with its band. There each token is held to the band by itself and its penalty is
    constant, and its weight changes over the run; a coefficient can only say it of the mean over tokens, and the weight
    here stays.
    """

    low: float = attrs.field(default=0.8, validator=[validators.ge(0), validators.le(1)])
    """Lower edge of the band, as a share of the mean."""
    high: float = attrs.field(default=1.2, validator=[validators.ge(1), finite])
    """Upper edge of the band, as a share of the mean."""
    weight: float = attrs.field(default=0.01, validator=[validators.gt(0), finite])
    """What is added or taken off outside the band, per nat."""
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})

    def start(self, coef: float, steps: int) -> EpoSession:
        return EpoSession(coef, coef, self)


@attrs.define
class EpoSession(EntropyControllerSession):
    """The session of ``epo``, with the mean of the entropies so far in nats, and their number."""

    coef: float
    begin: float
    rule: Epo
    mean: float = 0.0
    count: int = 0

    def update(self, entropy: float, step: int) -> None:
        """Move by the entropy in nats. Raises RunError where it is not finite; nothing has moved then."""
        measured(entropy)
        self.coef = self.begin
        if self.count and entropy < self.rule.low * self.mean:
            self.coef += self.rule.weight
        elif self.count and entropy > self.rule.high * self.mean:
            self.coef -= self.rule.weight
        self.count += 1
        self.mean += (entropy - self.mean) / self.count

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef, "mean": self.mean, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef, self.mean = float(state["coef"]), float(state["mean"])
        self.count = int(state["count"])
