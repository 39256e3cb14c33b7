"""One probe is held in memory: the update, the samples, and what is measured on them."""

from __future__ import annotations

import attrs

from .config import ProbeConfig
from .estimation.measured_change import Weighting
from .estimation.measurement import Measurement
from .sampling.samples import Sample
from .session import Session


@attrs.frozen(eq=False)
class Probed:
    """A probe holds one update, and the samples of E on which its change of the entropy is predicted and measured."""

    session: Session
    U: Sample
    E: Sample
    measurement: Measurement
    truth: Measurement
    """Measurement of the true change: ``measurement`` itself, unless the true change has a sample of E of its own."""

    @property
    def config(self) -> ProbeConfig:
        return self.session.config

    @property
    def weighting(self) -> Weighting:
        importance = self.config.importance
        mode = "snis" if importance.is_mode == "snis_rb" else importance.is_mode
        return Weighting(mode, importance.clip_c)

    @property
    def predicts(self) -> bool:
        return self.config.probe_rework.compute_delta_h1

    @property
    def paired(self) -> bool:
        """Whether the predicted and the measured change stand on one sample."""
        return self.truth is self.measurement
