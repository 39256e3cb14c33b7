"""The parts that a run has started: models, engine, sessions of its components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from ....core.components import AdvantageEstimatorSession
from .detectors import Detectors
from .sampling import Sampler


@attrs.frozen(eq=False)
class Parts:
    """Everything that :func:`.assemble.assemble` started for a run."""

    sampler: Sampler
    """What samples the groups of a step, and validates."""
    policy: Any
    """The train engine of the policy."""
    critic: Any | None
    """The train engine of the critic; ``policy`` itself where the critic is a head on its trunk."""
    reference: Any | None
    """The reference (:mod:`..weights.reference`), if one is needed."""
    advantage: AdvantageEstimatorSession
    """The session of the advantage estimator."""
    controller: Any
    """The session of the KL controller."""
    entropy_controller: Any
    """The session of the entropy controller."""
    detectors: Detectors
    validation_environment: Any
    """The environment of the validation."""
    needs: frozenset[str]
    """Names of the data that some component of the experiment needs."""
    synced: bool
    """Whether the rollout engine has weights of its own, which must be copied before each rollout."""
    close: Callable[[], None]
    """A function that ends the engine and its processes, and gives all memory back."""
    notes: tuple[str, ...] = ()
    """Sentences that a user should read about the models, once."""
    start_sums: Mapping[str, Any] = attrs.field(factory=dict)
    """Checksums of the start model's weights, where checkpoints rest on it (:mod:`.start_model`)."""
