"""One probe as it is held in memory: the update, the samples, and what is measured on them."""

from __future__ import annotations

import attrs

from .config import ProbeConfig
from .estimation.measurement import Measurement
from .estimation.truth import Weighting
from .sampling.samples import Sample
from .session import Session


@attrs.frozen(eq=False)
class Probed:
    """One update and the samples of E that it was held against."""

    session: Session
    U: Sample
    E: Sample
    measurement: Measurement
    truth: Measurement
    """The same as ``measurement``, unless the truth has a sample of E of its own."""

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
        """Whether prediction and truth stand on one sample."""
        return self.truth is self.measurement
