"""Every sequence of the update has a share of the predicted entropy change, to first order.

With X-bar the gradient of the entropy on E and v = carry + sum over sequences of v_i, where v_i = - scale * g_i has the
denominator and the clipping of the whole batch, the share of sequence i is eta * X-bar . v_i. The shares and the
carried part (momentum, weight decay) add up to the prediction. They take one reverse pass over E and one forward-mode
pass over U. Their standard errors are over E, U being given: E is cut into blocks of prompts, and every block takes one
more forward-mode pass over U.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ....core.components import Rollouts
from ....estimators.variance.entropy_change import delta_variance, mean_entropy, predicted_change
from ....estimators.variance.terms import EntropyUnit
from ..estimation.measured_change import Measured, Weighting, measure
from ..estimation.measurement import Measurement
from ..estimation.passes import Direction, Passes
from ..estimation.predicted_change import stated
from ..estimation.step import Step
from ..estimation.tokens import SampledTokens
from ..small_samples import widening_of_blocks

BLOCKS = 8
CLEAR = 2.0
"""Standard errors that a total must be from 0 at least, if shares are given as parts of it."""


@attrs.frozen(eq=False)
class Shares:
    """Shares are what each sequence of U adds to the predicted entropy change, in nats per sequence or per token."""

    of_sequences: Tensor
    """Share of each sequence: [S]."""
    carried: float
    """Share of momentum and weight decay."""
    influence_K: Tensor | None
    """Linear part of what each block of E adds to every share, the carried one last: [K, S + 1], with the sum 0.
    ``None`` where errors were not asked for, or E has a single prompt."""
    total_error: float = math.nan
    """Standard error of the total over draws of E; NaN for a single prompt, or where it was not asked for."""
    widened_by: float = 1.0
    """Factor of the errors from the blocks, since they stand on few blocks or prompts."""

    @property
    def total(self) -> float:
        return float(self.of_sequences.sum()) + self.carried

    @property
    def clear(self) -> bool:
        """Whether the total is more than noise, so that parts of it say something: :data:`CLEAR` standard errors."""
        return self.total != 0 and abs(self.total) >= CLEAR * self.total_error  # no number is as large as NaN

    def share_of_total(self, share: float) -> float | None:
        """Return a share as a part of the total; ``None`` where the total is noise."""
        return share / self.total if self.clear else None

    def of(self, sequences: Tensor) -> tuple[float, float | None]:
        """Return (sum, standard error) of the shares of these sequences ([S] bool)."""
        chosen = torch.cat([sequences, torch.tensor([False])])
        return float(self.of_sequences[sequences].sum()), self._error(chosen)

    @property
    def errors(self) -> list[float | None]:
        """Standard errors of the sequences: [S]."""
        one_hot = torch.eye(len(self.of_sequences) + 1, dtype=torch.bool)[:-1]
        return [self._error(chosen) for chosen in one_hot]

    @property
    def carried_error(self) -> float | None:
        return self._error(torch.arange(len(self.of_sequences) + 1) == len(self.of_sequences))

    def _error(self, chosen: Tensor) -> float | None:
        if self.influence_K is None:
            return None
        return self.widened_by * delta_variance(self.influence_K[:, chosen].sum(1)) ** 0.5


def shares(measurement: Measurement, unit: EntropyUnit, blocks: int = BLOCKS) -> Shares:
    """Return the share of every sequence of the measurement's update, at its learning rate.

    Args:
        blocks: number of blocks of prompts of E, whose differences give the standard errors; 0 leaves the errors out.
    """
    sums, rollouts = measurement.predicted_sums, measurement.rollouts
    weights = measurement.gradient_weights(unit)
    prompts = measurement.prompts
    count = min(blocks, prompts)
    error = stated(measurement, predicted_change(measurement.prediction_terms(unit)))[1]
    if count < 2:
        return Shares(*_split(measurement, measurement.entropy_gradient(unit)), None, error)
    _, unit_S = sums["prompt"].unique(return_inverse=True)
    block_S = unit_S % count
    of_blocks = torch.stack(
        [
            _products(measurement, _entropy_gradient(measurement, weights, (block_S == block)[rollouts.episodes]))
            for block in range(count)
        ]
    )
    # The entropy h and the denominator of the ratio are themselves estimated from E: their noise counts too.
    H, T = _ratio(sums, unit)
    on_tokens = torch.where(rollouts.mask, (T / T.sum())[rollouts.episodes][:, None], 0.0)
    everything = torch.ones(len(rollouts.tokens), dtype=torch.bool)
    length = _products(
        measurement, _entropy_gradient(measurement, (on_tokens, torch.zeros_like(on_tokens)), everything)
    )
    whole = of_blocks.sum(0)
    H_K, T_K = (torch.zeros(count, dtype=torch.float64).index_add(0, block_S, x) for x in (H, T))
    centred_K, size_K = (H_K - H.sum() / T.sum() * T_K) / T.sum(), T_K / T.sum()
    influence = of_blocks - centred_K[:, None] * length - size_K[:, None] * whole
    return Shares(whole[:-1], float(whole[-1]), influence, error, widening_of_blocks(count, prompts))


def _entropy_gradient(measurement: Measurement, weights: tuple[Tensor, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Return the part of a weighted gradient over E that some rows make."""
    passes = measurement.passes
    of_rows = Passes(passes.policy, passes.batch.take(rows.nonzero()[:, 0]), measurement.size, passes.ranks)
    return of_rows.weighted_gradient(weights[0][rows], weights[1][rows])


def _products(measurement: Measurement, gradient: dict[str, Tensor]) -> Tensor:
    """Return eta times the inner products of a gradient with each sequence's part of v and the carried one: [S + 1]."""
    of_sequences, carried = _split(measurement, gradient)
    return torch.cat([of_sequences, torch.tensor([carried], dtype=torch.float64)])


def _split(measurement: Measurement, gradient: dict[str, Tensor]) -> tuple[Tensor, float]:
    of_sequences, carried = measurement.step.influences(gradient)
    return measurement.eta * of_sequences, measurement.eta * carried


def _ratio(sums: dict[str, Tensor], unit: EntropyUnit) -> tuple[Tensor, Tensor]:
    """Return numerators and denominators of the mean entropy in this unit: [S] each."""
    H, T = sums["H"], sums["T"]
    match unit:
        case "per_token_ratio":
            return H, T
        case "per_seq_token_mean":
            return H / T, torch.ones_like(T)
        case _:
            return H, torch.ones_like(T)


# --- the truth of a few ---------------------------------------------------------------------------------------------


@attrs.frozen
class Checked:
    """A sequence is checked alone, on the same sample of E as its share: the difference is curvature, not noise."""

    sequence: int | None
    """Number of the sequence in U; ``None`` for the whole update."""
    predicted: float
    measured: float
    """Half the difference of the changes at theta + eta v_i and at theta - eta v_i, by importance weights."""
    curvature: float
    """Half the sum of these changes: what the second order adds."""
    ess_fraction: float

    @property
    def ratio(self) -> float | None:
        return self.measured / self.predicted if self.predicted else None


def choose(of_sequences: Tensor, count: int, seed: int) -> list[int]:
    """Choose the ``count`` sequences with the largest shares by size, and as many others at random."""
    by_size = of_sequences.abs().argsort(descending=True, stable=True).tolist()
    others = by_size[count:]
    return by_size[:count] + sorted(random.Random(seed).sample(others, min(count, len(others))))


def check(measurement: Measurement, unit: EntropyUnit, predicted: Shares, sequences: Sequence[int]) -> list[Checked]:
    """Measure the change of the whole update, and of some sequences alone, by two forward passes over E for each."""
    step = measurement.step
    checked = [_checked(measurement, unit, step.direction, None, predicted.total)]
    for sequence in sequences:
        share = float(predicted.of_sequences[sequence])
        checked.append(_checked(measurement, unit, alone(step, sequence), sequence, share))
    return checked


def alone(step: Step, sequence: int) -> dict[str, Tensor]:
    """Return v_i: what one sequence adds to the direction, with the denominator of the whole batch held fixed."""
    rows = (step.update.rollouts.episodes == sequence).nonzero()[:, 0]
    passes = Passes(step.passes.policy, step.update.batch.take(rows), len(rows), step.passes.ranks)
    gradient, (_, scale) = passes.loss_gradient(step.update.loss), step.rule.split(step.gradient)
    return {name: -scale[name] * g for name, g in gradient.items()}


def _checked(
    measurement: Measurement, unit: EntropyUnit, direction: Direction, sequence: int | None, predicted: float
) -> Checked:
    terms = measurement.truth_terms(unit)

    def at(eta: float) -> Measured:
        passes, base = measurement.passes, measurement.base
        return measure(passes, base, direction, eta, measurement.rollouts, Weighting(), measurement.mode)

    forward, backward = at(measurement.eta), at(-measurement.eta)
    plus, minus = forward.change(terms)[0], backward.change(terms)[0]
    ess = min(side.weights_of(terms)["ess_fraction"] for side in (forward, backward))
    return Checked(sequence, predicted, (plus - minus) / 2, (plus + minus) / 2, ess)


# --- everything about an update -------------------------------------------------------------------------------------


def sequence_table(
    rollouts: Rollouts, advantages_B_T: Tensor, tasks: Sequence[int], predicted: Shares
) -> list[dict[str, Any]]:
    """Return a record for each sequence of U: its origin, its features, and its share with its error (nats).

    ``surprisal_mean`` and ``surprisal_max`` are minus the log-probs (nats) that its tokens were sampled with: how rare
    its tokens are, and its rarest. ``advantage`` is the mean over its tokens.
    """
    line = SampledTokens(rollouts)
    tokens_S = line.total(line.of(rollouts.mask))
    surprisal_S = line.total(line.of(-rollouts.logprobs)) / tokens_S
    advantage_S = line.total(line.of(advantages_B_T)) / tokens_S
    # off the mask -inf, so that no token that was not sampled is the rarest
    rarest_B = torch.where(rollouts.mask, -rollouts.logprobs, -math.inf).amax(1).double()
    least_S = torch.full((len(rollouts.raw_rewards_E),), -math.inf, dtype=torch.float64)
    rarest_S = least_S.scatter_reduce(0, rollouts.episodes, rarest_B, "amax")
    units = rollouts.groups_of_episodes().tolist()
    members: dict[int, int] = {}
    records = []
    rows = zip(units, predicted.of_sequences.tolist(), predicted.errors, strict=True)
    for sequence, (unit, share, error) in enumerate(rows):
        members[unit] = members.get(unit, -1) + 1
        records.append(
            {
                "sequence": sequence,
                "prompt": unit,
                "task": tasks[unit],
                "member": members[unit],
                "reward": float(rollouts.raw_rewards_E[sequence]),
                "advantage": float(advantage_S[sequence]),
                "tokens": int(tokens_S[sequence]),
                "surprisal_mean": float(surprisal_S[sequence]),
                "surprisal_max": float(rarest_S[sequence]),
                "share": share,
                "se": error,
                "share_of_total": predicted.share_of_total(share),
            }
        )
    return records


def prediction(measurement: Measurement, unit: EntropyUnit) -> dict[str, float]:
    """Return the entropy and its predicted change by the forward-mode pass over E, in which the shares have no part."""
    terms = measurement.prediction_terms(unit)
    value, se = stated(measurement, predicted_change(terms))
    return {"H_orig": mean_entropy(terms).value, "deltaH1": value, "se": se}
