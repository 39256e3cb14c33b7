"""Controllers of the KL coefficient: they say how it moves from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from ...core.components import KlController, KlControllerSession
from ...core.compose.experiment import Experiment
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
