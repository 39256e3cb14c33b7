"""Controllers of the KL term: they say how its coefficient moves from step to step, and its reference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs

from ...core.components import KlController, KlControllerSession
from ...core.components.estimators import Move
from ...core.compose.experiment import Experiment
from ...core.compose.fields import component
from ...core.errors import RunError


@attrs.define
class FixedSession(KlControllerSession):
    """The session of ``fixed``, whose coefficient stays."""

    coef: float

    def update(self, kl: float, episodes: int) -> None:
        """Do nothing: the coefficient stays."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing: the coefficient stands in the experiment."""


@attrs.frozen
class Fixed(KlController):
    """Keep the coefficient at ``kl.coef``."""

    def start(self, coef: float) -> FixedSession:
        return FixedSession(coef)


@attrs.define
class AdaptiveSession(KlControllerSession):
    """The session of ``adaptive``, whose coefficient follows the KL."""

    coef: float
    target: float
    horizon: float

    def update(self, kl: float, episodes: int) -> None:
        """Move the coefficient after a step of ``episodes`` episodes with mean token KL ``kl`` (nats).

        Raises:
            RunError: ``kl`` is not finite; the coefficient stays what it was.
        """
        if not math.isfinite(kl):
            raise RunError(f"the KL to the reference is {kl}", "kl.controller", "look for a diverged policy")
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * episodes / self.horizon

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef = float(state["coef"])


@attrs.frozen
class Adaptive(KlController):
    """Raise the coefficient while the KL is above the target, and lower it while the KL is below.

    After a step of n episodes: ``coef <- coef * (1 + clip(kl / target - 1, -0.2, 0.2) * n / horizon)``, where ``kl``
    is the mean over sequences of their mean token KL, measured with ``kl.estimator``. So one step moves the coefficient
    by at most a share of ``0.2 * n / horizon``. It works for both placements, but needs ``kl.coef`` above 0: a product
    never leaves 0.

    Source: Ziegler et al. 2019, "Fine-tuning language models from human preferences", as in verl.
    """

    target: float = attrs.field(default=0.1, validator=[attrs.validators.gt(0), attrs.validators.lt(math.inf)])
    """KL to keep, in nats per token as ``kl.estimator`` measures it."""
    horizon: float = attrs.field(default=10000.0, validator=[attrs.validators.gt(0.0), attrs.validators.lt(math.inf)])
    """Number of episodes that sets the speed: the larger it is, the slower the coefficient moves."""

    def start(self, coef: float) -> AdaptiveSession:
        return AdaptiveSession(coef, self.target, self.horizon)

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Yield the reasons why the experiment cannot use this controller."""
        if experiment.kl.coef <= 0:
            yield "it multiplies kl.coef, which must therefore start above 0"
        episodes = experiment.rollout.groups * experiment.rollout.group_size
        if 0.2 * episodes >= self.horizon:
            yield f"with {episodes} episodes a step, a horizon of {self.horizon} could turn the coefficient negative"


class RefreshSession(KlControllerSession):
    """The session of ``refresh``: the coefficient is that of another session, and the reference moves by the clock."""

    def __init__(self, rule: Refresh, of: KlControllerSession) -> None:
        self._rule = rule
        self._of = of

    @property
    def coef(self) -> float:  # type: ignore[override]
        return self._of.coef

    def update(self, kl: float, episodes: int) -> None:
        self._of.update(kl, episodes)

    def refresh(self, step: int) -> float | None:
        """Return ``alpha`` every ``every`` steps; where ``of`` moves the reference too, the share of both moves."""
        other = self._of.refresh(step)
        if step % self._rule.every:
            return other
        alpha = self._rule.alpha
        # two moves after each other are one; if either of them is whole, so is this, exactly
        return alpha if other is None else alpha + (1 - alpha) * other

    def state_dict(self) -> dict[str, Any]:
        return self._of.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._of.load_state_dict(state)


@attrs.frozen
class Refresh(KlController):
    """Move the reference towards the policy every ``every`` steps: ``ref <- alpha * policy + (1 - alpha) * ref``.

    The weights are mixed, after the step's update. With an ``alpha`` of 1 the policy itself becomes the reference, and
    the KL to it is 0 until the policy moves on. The coefficient is the affair of ``of``. With LoRA only an ``alpha`` of
    1 is possible, as the mix of two adapters is no adapter of their rank.

    Source: Gorbatovski et al. 2024 (TR-DPO, arXiv 2404.09656), with soft and hard updates. TRL 1.16.0
    (``sync_ref_model``) has the same rule and counts optimizer steps, 512 by default; slime (``--ref-update-interval``)
    counts training steps as here, and takes the whole policy.
    """

    in_comparison: ClassVar[Mapping[str, Any]] = {"every": 10}

    every: int = attrs.field(default=100, validator=attrs.validators.ge(1))
    """Training steps from one move to the next."""
    alpha: float = attrs.field(default=0.6, validator=[attrs.validators.gt(0), attrs.validators.le(1)])
    """Share of the policy, above 0 and at most 1."""
    of: Any = component("kl_controller", "fixed")  # noqa: RUF009 - makes an attrs field
    """The controller of the coefficient."""

    @property
    def moves_reference(self) -> Move:
        partly = self.alpha < 1 or self.of.component.moves_reference == "towards_policy"
        return "towards_policy" if partly else "to_policy"

    def start(self, coef: float) -> RefreshSession:
        return RefreshSession(self, self.of.component.start(coef))

    def check(self, experiment: Experiment) -> Iterator[str]:
        """Yield the reasons why the experiment cannot use this controller."""
        if self.every >= experiment.trainer.steps:
            steps = experiment.trainer.steps
            yield f"it first moves the reference after step {self.every}, and the run ends after {steps}: lower every"
