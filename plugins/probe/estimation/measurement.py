"""A measurement of one update on one sample of E computes each quantity once, when it is first asked for.

So only the passes that somebody needs are run: the predicted change takes one forward-mode pass, the measured change
one forward pass and one more for each eta, and the errors over U take a reverse pass over E and forward-mode passes
over U.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ....core.components import Rollouts
from ....estimators.variance.terms import EntropyUnit, Terms
from ...training.processes.ranks import Ranks
from ...training.step.stages import to_batch
from .clock import Clock
from .measured_change import Measured, Weighting, measure
from .passes import Direction, Outputs, Passes, inner
from .sequences import EntropyMode, by_others, entropy_gradient_weights, entropy_terms, per_prompt
from .step import Step


class Measurement:
    """A measurement predicts and measures the entropy change that ``step`` makes, on the rollouts of E.

    Args:
        policy: the policy before the step, which is not changed.
        size: rows per pass with a gradient.
        forward_size: rows per pass without, by default ``size``.
        eta: learning rate of the step.
        mode: what stands for the entropy of a token.
        unbiased: predict with every score centred by the other sequences (:func:`.sequences.by_others`). Without it the
            prediction is the derivative of the truth on the very same sample, which lies towards 0 in small samples.
    """

    def __init__(
        self,
        policy: nn.Module,
        rollouts: Rollouts,
        step: Step,
        *,
        size: int,
        ranks: Ranks,
        eta: float,
        mode: EntropyMode = "rb",
        clock: Clock | None = None,
        forward_size: int | None = None,
        unbiased: bool = False,
    ) -> None:
        self.rollouts = rollouts
        self.step = step
        self.eta = eta
        self.mode = mode
        self.size = size
        self.unbiased = unbiased
        self.clock = clock or Clock()
        self.passes = Passes(policy, to_batch(rollouts), size, ranks, forward_size)
        self._gradients: dict[EntropyUnit, dict[str, Tensor]] = {}
        self._measured: dict[tuple[float, Weighting], Measured] = {}

    @property
    def prompts(self) -> int:
        """Number of prompts of E, the units of standard errors."""
        return len(self.rollouts.group_ids_P)

    # --- passes over E ----------------------------------------------------------------------------------------------

    @cached_property
    def rates(self) -> Outputs:
        """Log-probs, entropies and their derivatives along the step ([B, T]), by one forward-mode pass."""
        with self.clock("phase3_delta_h1"):
            return self.passes.forward_mode(self.step.direction)

    @cached_property
    def base(self) -> Outputs:
        """Log-probs and entropies ([B, T] nats), by the kind of pass that is used after the step: rounding cancels."""
        with self.clock("phase5_importance"):
            return self.passes.forward()

    @cached_property
    def predicted_sums(self) -> dict[str, Tensor]:
        """Sums over each sequence ([S]) of the entropies and derivatives of :attr:`rates`."""
        return entropy_terms(self.rates, self.rollouts, self.mode)

    @cached_property
    def base_sums(self) -> dict[str, Tensor]:
        """Sums over each sequence ([S]) of the entropies of :attr:`base`."""
        return entropy_terms(self.base, self.rollouts, self.mode)

    def entropy_gradient(self, unit: EntropyUnit) -> dict[str, Tensor]:
        """Return X-bar, the gradient of the mean entropy, by one reverse pass."""
        if unit not in self._gradients:
            with self.clock("phase1_sum_X"):
                self._gradients[unit] = self.passes.weighted_gradient(*self.gradient_weights(unit))
        return self._gradients[unit]

    def gradient_weights(self, unit: EntropyUnit) -> tuple[Tensor, Tensor]:
        """Return the [B, T] weights of log-probs and entropies whose weighted sum has the gradient X-bar."""
        return entropy_gradient_weights(self.predicted_sums, self.rollouts, unit, self.mode, self._centring(unit))

    def truth(self, eta: float, weighting: Weighting) -> Measured:
        """Return the importance weights and the entropies at theta + eta v, by one forward pass for each eta."""
        if (eta, weighting) not in self._measured:
            base = self.base
            with self.clock("phase5_importance"):
                self._measured[eta, weighting] = measure(
                    self.passes, base, self.step.direction, eta, self.rollouts, weighting, self.mode
                )
        return self._measured[eta, weighting]

    # --- terms ------------------------------------------------------------------------------------------------------

    def prediction_terms(self, unit: EntropyUnit) -> Terms:
        """Return the terms of deltaH1, with scores centred as ``unbiased`` says."""
        return Terms(eta=self.eta, entropy_unit=unit, **self._centred(self.predicted_sums, unit))

    def derivative_terms(self, unit: EntropyUnit) -> Terms:
        """Return the terms of the measured change's derivative, with scores centred by the mean of the whole sample."""
        return Terms(eta=self.eta, entropy_unit=unit, **self.predicted_sums)

    def truth_terms(self, unit: EntropyUnit) -> Terms:
        """Return the terms of the entropy before the step, which the measured change is a change of."""
        return Terms(eta=self.eta, entropy_unit=unit, **self.base_sums)

    def terms(self, unit: EntropyUnit, needs: Iterable[str], weighting: Weighting) -> Terms:
        """Return all terms that ``needs`` names. Those of the measured change are at the step's own eta."""
        needs = set(needs)
        more: dict[str, Any] = {}
        if needs & {"w", "h1"}:
            measured = self.truth(self.eta, weighting)
            more |= {"w": measured.w, "h1": measured.h1}
        if not needs & {"s_N", "t_M", "K_NM", "jH", "S1", "Hj", "Tj", "z", "grad_sq_R"}:
            return Terms(eta=self.eta, entropy_unit=unit, **self.base_sums, **more)
        raw = self.predicted_sums
        # beside the measured change stands its derivative, at the entropies of the pass that the new ones come from
        sums = {**raw, "H": self.base_sums["H"]} if needs & {"w", "h1"} else self._centred(raw, unit)
        if "z" in needs:
            # controls have the mean 0, since 1 and t are fixed before token t is drawn
            more["z"] = torch.stack([raw["S1"], raw["T"] * raw["S1"] - raw["Tj"]], 1)
        if "shard" in needs:
            # shards are whole prompts, so that they are independent
            _, unit_S = sums["prompt"].unique(return_inverse=True)
            more["shard"] = unit_S // self.size
        if "s_N" in needs:
            more["s_N"] = per_prompt(self.prediction_terms(unit))
        if "t_M" in needs:
            more["t_M"] = self._products_with_U(unit)
        if needs & {"K_NM", "grad_sq_R"}:
            more |= self._per_prompt_of_U(unit)
        return Terms(eta=self.eta, entropy_unit=unit, **sums, **more)

    def _products_with_U(self, unit: EntropyUnit) -> Tensor:
        """Return X-bar . Y_p ([M]), with Y_p what v would be to first order if all prompts of U were like p.

        It takes one pass over U.
        """
        gradient = self.entropy_gradient(unit)
        with self.clock("phase4_variance"):
            pulled = self.step.rule.pull_back(self.step.gradient, gradient)
            shares_M = self.step.update.per_prompt(self.step.passes.loss_rates(self.step.update.loss, pulled))
            whole = inner(gradient, self.step.direction)
            return whole + len(shares_M) * shares_M - shares_M.sum()

    def _per_prompt_of_U(self, unit: EntropyUnit) -> dict[str, Tensor]:
        """Return X_n . Y_p ([N, M]), and the squared norms of the gradients of one prompt (mean) and of all.

        It takes a reverse pass over each prompt of U, and a forward-mode pass over E along what the prompt changes.
        """
        step = self.step
        whole_N = per_prompt(self.prediction_terms(unit))
        columns, squares = [], []
        with self.clock("phase4_variance"):
            for gradient in step.prompt_gradients():
                squares.append(inner(gradient, gradient))
                change = {name: gradient[name] - g for name, g in step.gradient.items()}
                columns.append(whole_N + self._along(step.rule.push_forward(step.gradient, change), unit))
        return {
            "K_NM": torch.stack(columns, 1),
            "grad_sq_R": torch.tensor([sum(squares) / len(squares), inner(step.gradient, step.gradient)]),
            "grad_sizes_R": torch.tensor([1, len(squares)]),
        }

    def _along(self, direction: Direction, unit: EntropyUnit) -> Tensor:
        sums = entropy_terms(self.passes.forward_mode(direction), self.rollouts, self.mode)
        return per_prompt(Terms(entropy_unit=unit, **self._centred(sums, unit)))

    def _centring(self, unit: EntropyUnit) -> Tensor | float:
        return by_others(self.predicted_sums, unit) if self.unbiased else 1.0

    def _centred(self, sums: dict[str, Tensor], unit: EntropyUnit) -> dict[str, Tensor]:
        return {**sums, "S1": self._centring(unit) * sums["S1"]}
