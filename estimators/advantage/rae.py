"""A moving average of scores is the baseline of an estimator that learns from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import torch
from attrs.validators import and_, gt, lt
from torch import Tensor

from ...core.components import AdvantageEstimator, AdvantageEstimatorSession, Advantages, CreditInputs
from ...core.compose.experiment import Experiment
from .outcome import Outcomes, credit_rows


@attrs.frozen
class Rae(AdvantageEstimator):
    """The advantage is the score of the episode above a moving average of all scores before it (RAE).

    A = s - b on every sampled token, s = sum of the row's rewards. The baseline b (reward units) begins at 0, and after
    each group b <- decay^n b + (1 - decay^n) mean, over the scores of its n episodes. Groups follow each other as in
    the step, and all episodes of a group are compared with the b that stands before it. returns: undiscounted rewards
    to go. [B, T], zero off the mask. Only episodes that train are seen; those that filters drop are not.

    An episode's own score is not in its baseline, so the expected gradient is that of REINFORCE. Until b has warmed up,
    over about 1 / (1 - decay) episodes, advantages are the raw scores. Groups are not compared: groups of one episode
    learn, and so do groups of equal scores.

    Source: role-conditioned advantage estimation of SPIRAL, Liu et al. 2025 (arXiv 2506.24119), with its decay. Its
    code and prime-rl use b before they update it, as here; the equation of the paper updates first, which multiplies
    the advantage of a single episode by decay. There b moves with each episode in the order in which they end; with
    groups of one this is the same. The members of a group have no order: here b is the mean over all their orders.
    There each pair of game and role has a baseline; a run has one environment and one agent, so here it has one.
    """

    decay: float = attrs.field(default=0.95, validator=and_(gt(0.0), lt(1.0)))
    """Share of the baseline that is left after one more episode."""

    def compute(self, batch: CreditInputs) -> Advantages:
        return self.start().compute(batch)

    def start(self) -> RaeSession:
        return RaeSession(self.decay)

    def check(self, experiment: Experiment) -> list[str]:
        """Say why the experiment cannot use this estimator."""
        if experiment.reward.normalization == "identity":
            return []
        reason = "takes the mean of each step off the rewards, so that no average of earlier ones would be left"
        return [f"reward.normalization = {experiment.reward.normalization} {reason}"]


@attrs.define
class RaeSession(AdvantageEstimatorSession):
    """The session of ``rae``."""

    decay: float
    baseline: float = 0.0
    """Moving average of the scores, in reward units."""

    def compute(self, batch: CreditInputs) -> Advantages:
        return credit_rows(batch, self._above)

    def _above(self, outcomes: Outcomes) -> Tensor:
        """Return how far each row is above its baseline, [B'], while the baseline moves on."""
        baselines = []
        for mean, count in zip(outcomes.mean_P().tolist(), outcomes.n_P.tolist(), strict=True):
            baselines.append(self.baseline)
            kept = self.decay**count
            self.baseline = kept * self.baseline + (1.0 - kept) * mean
        baseline_P = torch.tensor(baselines, dtype=torch.float64, device=outcomes.scores_B.device)
        return outcomes.scores_B - outcomes.per_row(baseline_P)

    def metrics(self) -> dict[str, float]:
        return {"baseline": self.baseline}

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.baseline = float(state["baseline"])
