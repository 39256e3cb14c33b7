"""Which sequences of the update drive the entropy change: a share for every one of them, to first order.

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
from ....estimators.variance.statistics import delta_variance, mean_entropy, predicted_change
from ....estimators.variance.terms import EntropyUnit
from ..estimation.measured_change import Weighting, measure, with_error
from ..estimation.measurement import Measurement
from ..estimation.passes import Direction, Passes
from ..estimation.step import Step
from ..estimation.tokens import SampledTokens
from ..small_samples import widened, widening_of_blocks

BLOCKS = 8
CLEAR = 2.0
"""Standard errors that a total is from 0, at least, if shares are given as parts of it."""


@attrs.frozen(eq=False)
class Shares:
    """What each sequence of U adds to the predicted entropy change, in nats (per sequence or per token: the unit's)."""

    of_sequences: Tensor
    """[S]."""
    carried: float
    """Of momentum and weight decay."""
    influence_K: Tensor | None
    """[K, S + 1]: the linear part of what each block of E adds to every share, the carried one last; they sum to 0.
    ``None``: errors were not asked for, or E has a single prompt."""
    total_error: float = math.nan
    """Standard error of the total over draws of E; NaN of a single prompt, or where nobody has asked."""
    widened_by: float = 1.0
    """What the errors from the blocks are multiplied by, since they stand on few blocks or prompts."""

    @property
    def total(self) -> float:
        return float(self.of_sequences.sum()) + self.carried

    @property
    def clear(self) -> bool:
        """Whether the total is more than noise, so that parts of it say something: :data:`CLEAR` standard errors."""
        return self.total != 0 and abs(self.total) >= CLEAR * self.total_error  # no number is as large as NaN

    def share_of_total(self, share: float) -> float | None:
        """``None`` where the total is noise."""
        return share / self.total if self.clear else None

    def of(self, sequences: Tensor) -> tuple[float, float | None]:
        """(sum, standard error) of the shares of these sequences ([S] bool)."""
        chosen = torch.cat([sequences, torch.tensor([False])])
        return float(self.of_sequences[sequences].sum()), self._error(chosen)

    @property
    def errors(self) -> list[float | None]:
        """[S] standard errors."""
        each = torch.eye(len(self.of_sequences) + 1, dtype=torch.bool)[:-1]
        return [self._error(one) for one in each]

    @property
    def carried_error(self) -> float | None:
        return self._error(torch.arange(len(self.of_sequences) + 1) == len(self.of_sequences))

    def _error(self, chosen: Tensor) -> float | None:
        if self.influence_K is None:
            return None
        return self.widened_by * delta_variance(self.influence_K[:, chosen].sum(1)) ** 0.5


def shares(measurement: Measurement, unit: EntropyUnit, blocks: int = BLOCKS) -> Shares:
    """The share of every sequence of the measurement's update, at its learning rate.

    Args:
        blocks: of prompts of E, whose differences are the evidence for the standard errors; 0 leaves the errors out.
    """
    sums, rollouts = measurement.predicted_sums, measurement.rollouts
    weights = measurement.gradient_weights(unit)
    prompts = len(rollouts.group_ids_P)
    count = min(blocks, prompts)
    error = widened(with_error(predicted_change(measurement.prediction_terms(unit)))[1], prompts)
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
    """The part of a weighted gradient over E that some rows make."""
    passes = measurement.passes
    own = Passes(passes.policy, passes.batch.take(rows.nonzero()[:, 0]), measurement.size, passes.ranks)
    return own.weighted_gradient(weights[0][rows], weights[1][rows])


def _products(measurement: Measurement, gradient: dict[str, Tensor]) -> Tensor:
    """[S + 1] eta times the inner products of a gradient with every sequence's part of v, and with the carried one."""
    of_sequences, carried = _split(measurement, gradient)
    return torch.cat([of_sequences, torch.tensor([carried], dtype=torch.float64)])


def _split(measurement: Measurement, gradient: dict[str, Tensor]) -> tuple[Tensor, float]:
    of_sequences, carried = measurement.step.influences(gradient)
    return measurement.eta * of_sequences, measurement.eta * carried


def _ratio(sums: dict[str, Tensor], unit: EntropyUnit) -> tuple[Tensor, Tensor]:
    """[B] numerators and denominators of the mean entropy in this unit."""
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
    """A sequence alone, to first order and truly, on the same sample of E: the difference is curvature, not noise."""

    sequence: int | None
    """Its number in U; ``None``: the whole update."""
    predicted: float
    measured: float
    """Half the difference of the changes at theta + eta v_i and at theta - eta v_i, by importance weights."""
    curvature: float
    """Half their sum: what the second order adds to the change."""
    ess_fraction: float

    @property
    def ratio(self) -> float | None:
        return self.measured / self.predicted if self.predicted else None


def choose(of_sequences: Tensor, count: int, seed: int) -> list[int]:
    """The ``count`` sequences with the largest shares by size, and as many others at random."""
    by_size = of_sequences.abs().argsort(descending=True, stable=True).tolist()
    others = by_size[count:]
    return by_size[:count] + sorted(random.Random(seed).sample(others, min(count, len(others))))


def check(measurement: Measurement, unit: EntropyUnit, found: Shares, sequences: Sequence[int]) -> list[Checked]:
    """The truth of the whole update, and of some sequences alone: two forward passes over E for each."""
    step = measurement.step
    checked = [_checked(measurement, unit, step.direction, None, found.total)]
    for sequence in sequences:
        predicted = float(found.of_sequences[sequence])
        checked.append(_checked(measurement, unit, alone(step, sequence), sequence, predicted))
    return checked


def alone(step: Step, sequence: int) -> dict[str, Tensor]:
    """v_i: what one sequence adds to the direction, the denominator of the whole batch being held fixed."""
    rows = (step.update.rollouts.episodes == sequence).nonzero()[:, 0]
    passes = Passes(step.passes.policy, step.update.batch.take(rows), len(rows), step.passes.ranks)
    gradient, (_, scale) = passes.loss_gradient(step.update.loss), step.rule.split(step.gradient)
    return {name: -scale[name] * g for name, g in gradient.items()}


def _checked(
    measurement: Measurement, unit: EntropyUnit, direction: Direction, sequence: int | None, predicted: float
) -> Checked:
    terms = measurement.truth_terms(unit)
    there, back = (
        measure(
            measurement.passes, measurement.base, direction, eta, measurement.rollouts, Weighting(), measurement.mode
        )
        for eta in (measurement.eta, -measurement.eta)
    )
    plus, minus = there.change(terms)[0], back.change(terms)[0]
    ess = min(m.weights_of(terms)["ess_fraction"] for m in (there, back))
    return Checked(sequence, predicted, (plus - minus) / 2, (plus + minus) / 2, ess)


# --- everything about an update -------------------------------------------------------------------------------------


def sequence_table(rollouts: Rollouts, advantages: Tensor, tasks: Sequence[int], found: Shares) -> list[dict[str, Any]]:
    """A record for each sequence of U: where it comes from, what it was like, and its share with its error (nats).

    ``surprisal_mean`` and ``surprisal_max`` are minus the log-probs (nats) that its tokens were sampled with: how rare
    its tokens are, and its rarest. ``advantage`` is the mean over its tokens.
    """
    mask, episodes, count = rollouts.mask, rollouts.episodes, len(rollouts.raw_rewards_E)
    line = SampledTokens(rollouts)
    tokens = line.total(line.of(mask))
    surprisal, advantage = (line.total(line.of(x_B_T)) / tokens for x_B_T in (-rollouts.logprobs, advantages))
    rarest_B = torch.where(mask, -rollouts.logprobs, -math.inf).amax(1).double()
    rarest = torch.full((count,), -math.inf, dtype=torch.float64).scatter_reduce(0, episodes, rarest_B, "amax")
    units = rollouts.groups_of_episodes().tolist()
    members: dict[int, int] = {}
    records = []
    for sequence, (unit, share, error) in enumerate(zip(units, found.of_sequences.tolist(), found.errors, strict=True)):
        members[unit] = members.get(unit, -1) + 1
        records.append(
            {
                "sequence": sequence,
                "prompt": unit,
                "task": tasks[unit],
                "member": members[unit],
                "reward": float(rollouts.raw_rewards_E[sequence]),
                "advantage": float(advantage[sequence]),
                "tokens": int(tokens[sequence]),
                "surprisal_mean": float(surprisal[sequence]),
                "surprisal_max": float(rarest[sequence]),
                "share": share,
                "se": error,
                "share_of_total": found.share_of_total(share),
            }
        )
    return records


def prediction(measurement: Measurement, unit: EntropyUnit) -> dict[str, float]:
    """The entropy, and its predicted change by the forward-mode pass over E, which the shares have no part in."""
    terms = measurement.prediction_terms(unit)
    value, se = with_error(predicted_change(terms))
    stated = widened(se, len(measurement.rollouts.group_ids_P))
    return {"H_orig": mean_entropy(terms).value, "deltaH1": value, "se": stated}
