"""Wrappers that check reward shapings and advantage estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from .....core.components import (
    AdvantageEstimator,
    AdvantageEstimatorSession,
    Advantages,
    CreditInputs,
    RewardShaping,
    ShapingInputs,
)
from .....core.compose.blame import confined, require_session, wrong
from .....core.compose.inner import with_inner
from .....core.compose.named import Named
from ....rollout.sampler_state import to_plain
from .checks import Checked, calling, require_finite, require_number, require_tensor, tensors


class CheckedShaping(Checked, RewardShaping):
    """A reward shaping that is checked."""

    @property
    def idle(self) -> bool:  # type: ignore[override]
        return self.component.idle

    def shape(self, inputs: ShapingInputs) -> Tensor:
        with calling(self.named, "shape", **tensors(inputs)):
            rewards_E = self.component.shape(inputs)
        require_tensor(self.named, "shape", rewards_E, inputs.rewards_E.shape, "[E]")
        rewards_E = rewards_E.to(inputs.rewards_E)
        require_finite(self.named, "shape", rewards_E)
        if rewards_E.requires_grad:
            raise wrong(self.named, "shape", "gave rewards with a gradient: detach them")
        return rewards_E


class CheckedAdvantage(Checked, AdvantageEstimator):
    """An advantage estimator that is checked."""

    def compute(self, batch: CreditInputs) -> Advantages:
        return _computed(self.named, self.component, batch)

    def start(self) -> CheckedAdvantageSession:
        """Start the session of a run; those of the estimators that this one holds are started before it."""
        held_sessions: list[CheckedAdvantageSession] = []

        def started(held: Named) -> Named:
            if not isinstance(held.component, CheckedAdvantage):
                return held
            held_sessions.append(held.component.start())
            return attrs.evolve(held, component=held_sessions[-1])

        component = with_inner(self.component, started)
        with confined(self.named, "start"):
            session = component.start()
        require_session(self.named, "start", session, AdvantageEstimatorSession)
        return CheckedAdvantageSession(self.named, session, tuple(held_sessions))


class CheckedAdvantageSession(AdvantageEstimator, AdvantageEstimatorSession):
    """An advantage estimator in a run, with the sessions of the estimators that it holds.

    It stands in the place of its estimator where another one holds it, so that even an estimator that knows of no
    sessions calls the one that goes on from step to step.
    """

    def __init__(self, named: Named, session: Any, held: tuple[CheckedAdvantageSession, ...]) -> None:
        self.named, self.session, self.held = named, session, held

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.named.needs

    def start(self) -> CheckedAdvantageSession:
        """Return itself, since it runs already."""
        return self

    def compute(self, batch: CreditInputs) -> Advantages:
        return _computed(self.named, self.session, batch)

    def metrics(self) -> dict[str, float]:
        """Return the metrics of this session, and those of the sessions that it holds as ``ESTIMATOR.NAME``."""
        with confined(self.named, "metrics"):
            metrics = self.session.metrics()
        if not isinstance(metrics, Mapping):
            raise wrong(self.named, "metrics", f"gave {type(metrics).__name__}, not a mapping of numbers")
        for name, value in metrics.items():
            require_number(self.named, "metrics", name, value)
        numbers = {f"{held.named.name}.{name}": value for held in self.held for name, value in held.metrics().items()}
        return numbers | {name: float(value) for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of this session and of those that it holds, as JSON can hold them."""
        with confined(self.named, "state_dict"):
            state = self.session.state_dict()
        if not isinstance(state, dict):
            raise wrong(self.named, "state_dict", f"gave {type(state).__name__}, not a dict")
        try:
            own = to_plain(state)
        except ValueError as error:
            raise wrong(self.named, "state_dict", str(error)) from error
        return {"own": own, "held": [held.state_dict() for held in self.held]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for held, saved in zip(self.held, state["held"], strict=True):
            held.load_state_dict(saved)
        with confined(self.named, "load_state_dict"):
            self.session.load_state_dict(state["own"])


def _computed(
    named: Named, computing: AdvantageEstimator | AdvantageEstimatorSession, batch: CreditInputs
) -> Advantages:
    """Return what an estimator or its session computes, once it is checked."""
    with calling(named, "compute", **tensors(batch)):
        result = computing.compute(batch)
    if not isinstance(result, Advantages):
        raise wrong(named, "compute", f"gave {type(result).__name__}, not Advantages")
    for name, value in attrs.asdict(result, recurse=False).items():
        require_tensor(named, f"compute ({name})", value, batch.rewards.shape, "[B, T]")
        require_finite(named, f"compute ({name})", value)
        if value.requires_grad:
            raise wrong(named, f"compute ({name})", "has a gradient: detach it")
        if bool((value[~batch.mask] != 0).any()):
            raise wrong(named, f"compute ({name})", "is not zero off the mask, on tokens that were not sampled")
    return result
