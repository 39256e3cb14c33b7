"""What a run has started: models, engine, sessions of its components."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from .detectors import Detectors
from .sampling import Sampler


@attrs.frozen(eq=False)
class Parts:
    """Everything that :func:`.assemble.assemble` started for a run."""

    sampler: Sampler
    policy: Any
    critic: Any | None
    """``policy`` itself where the critic is a head on its trunk."""
    reference: Any | None
    controller: Any
    """The session of the KL controller."""
    entropy_controller: Any
    """The session of the entropy controller."""
    detectors: Detectors
    validation_environment: Any
    needs: frozenset[str]
    synced: bool
    """Whether the engine samples with weights of its own, which must be copied before each rollout."""
    close: Callable[[], None]
    """Ends the engine and the processes behind it, and gives all memory back."""
    notes: tuple[str, ...] = ()
    """What a user should know of the models, said once."""
    start_sums: Mapping[str, Any] = attrs.field(factory=dict)
    """Checksums of the start model's weights, where checkpoints rest on it (:mod:`.start_model`)."""
