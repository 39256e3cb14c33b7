"""The policy update that a training step is about to make: all of its optimizer steps, with or without one group.

Gradients are those at the parameters before the update, for every optimizer step of it; Adam's moments move from each
to the next as they will. That is the update to first order in the learning rate.
"""

from __future__ import annotations

from functools import cached_property

import attrs
import torch
from torch import Tensor

from ....core.components import Scores
from ...training.batch import Batch
from ...training.pending import PendingUpdate
from ..checkpoint.adam_state import AdamSettings, AdamState, Coverage
from ..estimation.directions import AdamW
from ..estimation.passes import Outputs, Passes, norm, trained

KEPT_BYTES = 2**30
"""Up to this size all gradients of groups are kept; beyond it they are computed a second time."""

Gradient = dict[str, Tensor]


class PlannedUpdate:
    """The direction of a whole policy update, per unit of learning rate."""

    def __init__(self, update: PendingUpdate) -> None:
        self._update = update
        self._steps = [update.weighted(rows) for rows in update.optimizer_steps]
        self._parameters = trained(update.policy.module)
        self._groups: list[int] = update.rollouts.group_ids_P.tolist()
        of_one = sum(p.numel() * 4 for p in self._parameters.values())
        self._keep = of_one * len(self._steps) * len(self._groups) <= KEPT_BYTES
        self._kept: dict[tuple[int, int], Gradient] = {}

    def passes(self, batch: Batch) -> Passes:
        """Passes over some rows, cut so that every rank has a share."""
        ranks, size = self._update.ranks, self._update.experiment.trainer.micro_batch
        return Passes(self._update.policy.module, batch, min(size, -(-len(batch) // ranks.size)), ranks)

    def direction(self, without: int | None = None) -> Gradient | None:
        """The sum of the optimizer steps' directions v, such that theta moves by lr * v.

        Args:
            without: a group that is left out; the weights of the others are raised so that they add up to what they
                did with it.

        Returns:
            ``None`` where an optimizer step has no other group.
        """
        if without is None:
            return self._walk(self._whole)
        gradients = []
        for index, whole in enumerate(self._whole):
            everything = float(self._weights(index, None))
            others = everything - float(self._weights(index, without))
            if others <= 1e-6 * everything:
                return None
            own = self._of_group(index, without)
            gradients.append({name: everything / others * (g - own[name]) for name, g in whole.items()})
        return self._walk(gradients)

    @cached_property
    def _whole(self) -> list[Gradient]:
        """The gradient of each optimizer step."""
        if not self._keep:
            return [self._gradient(index, list(rows)) for index, rows in enumerate(self._update.optimizer_steps)]
        return [
            {name: torch.stack([own[name] for own in owns]).sum(0) for name in self._parameters}
            for index in range(len(self._steps))
            for owns in [[self._of_group(index, group) for group in self._groups]]
        ]

    def _of_group(self, index: int, group: int) -> Gradient:
        if (index, group) in self._kept:
            return self._kept[index, group]
        found = self._gradient(index, self._rows(index, group))
        if self._keep:
            self._kept[index, group] = found
        return found

    def _gradient(self, index: int, rows: list[int]) -> Gradient:
        """The gradient of the loss of these rows in an optimizer step, float32."""
        if not rows:
            return {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._parameters.items()}
        found = self.passes(self._steps[index].take(rows)).loss_gradient(self._loss)
        return {name: g.float() for name, g in found.items()}

    def _loss(self, scores: Outputs, part: Batch) -> Tensor:
        return self._update.objective.tokens(Scores(**scores), part)[0]

    def _rows(self, index: int, group: int) -> list[int]:
        groups = self._update.rollouts.groups
        return [row for row in self._update.optimizer_steps[index] if int(groups[row]) == group]

    def _weights(self, index: int, group: int | None) -> Tensor:
        """The sum of the token weights of an optimizer step, or of one group in it."""
        weights = self._steps[index].weights
        assert weights is not None
        return (weights if group is None else weights[self._rows(index, group)]).double().sum()

    def _walk(self, gradients: list[Gradient]) -> Gradient:
        """The sum of the directions of AdamW's steps on these gradients."""
        state, parameters = self._adam
        limit = self._update.experiment.trainer.grad_clip
        total = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in self._parameters.items()}
        for gradient in gradients:
            factor = min(1.0, limit / (norm(gradient) + 1e-6)) if limit else 1.0
            clipped = {name: factor * g for name, g in gradient.items()}
            for name, v in AdamW(state, parameters).direction(clipped).items():
                total[name] += v
            state = _advanced(state, clipped)
        return total

    @cached_property
    def _adam(self) -> tuple[AdamState, Gradient]:
        """The trainer's own state, and the weights that it steps: the fp32 ones behind a bfloat16 model."""
        saved = self._update.policy.optimizer_state()
        group, device = saved["param_groups"][0], self._update.ranks.device
        settings = AdamSettings(tuple(group["betas"]), float(group["eps"]), float(group["weight_decay"]))
        moments: dict[str, Gradient] = {"exp_avg": {}, "exp_avg_sq": {}}
        steps = {}
        for name, parameter in self._parameters.items():
            values = saved["state"].get(name)  # there is none before the first optimizer step
            steps[name] = float(values["step"]) if values else 0.0
            for key, of_all in moments.items():
                of_all[name] = values[key].to(device) if values else torch.zeros_like(parameter, dtype=torch.float32)
        count = len(steps)
        state = AdamState(
            step=steps,
            exp_avg=moments["exp_avg"],
            exp_avg_sq=moments["exp_avg_sq"],
            max_exp_avg_sq=None,
            settings=dict.fromkeys(steps, settings),
            base_lr=None,
            coverage=Coverage(count, count, count, "names"),
        )
        return state, {name: saved["master"].get(name, p.detach()).to(device) for name, p in self._parameters.items()}


def _advanced(state: AdamState, gradient: Gradient) -> AdamState:
    """Adam's state after a step on this gradient."""
    first, second = {}, {}
    for name, g in gradient.items():
        beta_1, beta_2 = state.settings[name].betas
        first[name] = beta_1 * state.exp_avg[name] + (1 - beta_1) * g
        second[name] = beta_2 * state.exp_avg_sq[name] + (1 - beta_2) * g**2
    steps = {name: step + 1 for name, step in state.step.items()}
    return attrs.evolve(state, step=steps, exp_avg=first, exp_avg_sq=second)
