"""The update that a training step is about to make is computed beforehand, with and without some of its groups.

It has all optimizer steps of the training step. Their gradients are those at the parameters before the update; Adam's
moments move from each step to the next as they will.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ....core.components import Scores
from ...training.step.batch import Batch
from ...training.step.losses import PolicyObjective
from ...training.step.pending import PendingUpdate
from ..checkpoint.adam_state import AdamSettings, AdamState, Coverage
from ..estimation.passes import Outputs, Passes, trained

Gradient = dict[str, Tensor]
"""Tensors by name of a parameter, or laid out flat."""


class Folds:
    """Folds divide the groups that train; the update's displacement is computed without each of them.

    Args:
        count: how many folds, if there are as many groups.
        base: [B, T] log-probs and entropies of the update's rows before it; rows whose loss depends on neither there
            need no pass. Where most groups have no spread, these are most rows.
    """

    def __init__(self, update: PendingUpdate, count: int, base: Outputs | None = None) -> None:
        self._update, self._base = update, base
        groups: list[int] = update.rollouts.group_ids_P.tolist()
        self.count = min(count, len(groups))
        self.fold_of = {group: index % self.count for index, group in enumerate(groups)}
        """Folds by group id; groups that the filter left out are in none."""
        self._fold_B = torch.tensor([self.fold_of[group] for group in update.rollouts.groups.tolist()])

    def displacements(self) -> tuple[Gradient, list[Gradient | None]]:
        """Return how far theta would move: by the whole update, and without each of the folds.

        Without a fold the weights of the others are raised so that they add up to what they did with it. ``None``
        stands for a fold without which an optimizer step would have no rows.
        """
        layout, state, weights = _adam(self._update)
        whole = Walk(self._update, state, weights)
        others: list[Walk | None] = [Walk(self._update, state, weights) for _ in range(self.count)]
        for rows in self._update.optimizer_steps:
            batch = self._update.weighted(rows)
            moving_B = self._moving(batch)
            moving = [row for row in rows if moving_B[row]]
            of_folds = [layout.flat(self._gradient(batch, self._rows(moving, fold))) for fold in range(self.count)]
            gradient = _sum(of_folds)
            weights_B = _weights(batch)
            for fold, walk in enumerate(others):
                rest = float(weights_B[self._fold_B != fold].sum() / weights_B.sum())
                if walk is None or rest <= 1e-6:
                    others[fold] = None
                    continue
                walk.step({name: (g - of_folds[fold][name]).div_(rest) for name, g in gradient.items()})
            whole.step(gradient)
        return layout.by_name(whole.moved), [layout.by_name(walk.moved) if walk else None for walk in others]

    def _rows(self, rows: Sequence[int], fold: int) -> list[int]:
        return [row for row in rows if int(self._fold_B[row]) == fold]

    def _gradient(self, batch: Batch, rows: list[int]) -> Gradient:
        """Return the gradient of the loss of these rows in an optimizer step, float32 at least."""
        policy = self._update.policy.module
        if not rows:
            return {name: torch.zeros_like(p, dtype=_fp32(p)) for name, p in trained(policy).items()}
        return passes_over(self._update, batch.take(rows)).loss_gradient(self._loss)

    def _moving(self, batch: Batch) -> Tensor:
        """Return whether each row's loss has a gradient in its log-probs or entropies: [B] bool."""
        if self._base is None or not isinstance(self._update.objective, PolicyObjective):
            return torch.ones(len(batch), dtype=torch.bool)
        leaves = {name: value.clone().requires_grad_() for name, value in self._base.items()}
        with torch.enable_grad():
            loss = self._loss(leaves, batch).sum()
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return torch.stack([(g_B_T != 0).any(1) for g_B_T in gradients if g_B_T is not None]).any(0)

    def _loss(self, scores: Outputs, part: Batch) -> Tensor:
        return self._update.objective.tokens(Scores(**scores), part)[0]


class Walk:
    """A walk makes AdamW's steps from a state, without the rounding of the parameters.

    Weight decay is that of the weights before the first step.
    """

    def __init__(self, update: PendingUpdate, state: AdamState, weights: Gradient) -> None:
        self._lr, self._max_norm = update.lr, update.experiment.trainer.grad_clip
        self._settings, self._weights = state.settings, weights
        # torch's own AdamW steps these in place, in one pass over them
        self._first = {name: m.clone() for name, m in state.exp_avg.items()}
        self._second = {name: s.clone() for name, s in state.exp_avg_sq.items()}
        self._steps = {
            name: torch.tensor(state.step[name], dtype=torch.float32, device=p.device) for name, p in weights.items()
        }
        self.moved = {name: torch.zeros_like(p) for name, p in weights.items()}
        """Displacement of theta from where it began."""

    def step(self, gradient: Gradient) -> None:
        """Take a step on a gradient, which is clipped in place."""
        if self._max_norm:
            factor = (self._max_norm / (_norm(gradient) + 1e-6)).clamp(max=1.0)
            for g in gradient.values():
                g.mul_(factor)
        for name, g in gradient.items():
            settings = self._settings[name]
            self.moved[name].sub_(self._weights[name], alpha=self._lr * settings.weight_decay)
            adamw(
                [self.moved[name]], [g], [self._first[name]], [self._second[name]], [], [self._steps[name]],
                fused=True, amsgrad=False, beta1=settings.betas[0], beta2=settings.betas[1], lr=self._lr,
                weight_decay=0.0, eps=settings.eps, maximize=False,
            )  # fmt: skip


def _norm(gradient: Gradient) -> Tensor:
    """Return the Euclidean norm over all tensors, accumulated in float64: []; nothing waits for the device."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradient.values()]
    return torch.linalg.vector_norm(torch.stack(norms))


class Layout:
    """A layout puts the tensors of parameters end to end: few long tensors take far fewer calls than many short ones.

    Parameters that have had as many steps of Adam share a tensor.
    """

    def __init__(self, parameters: Mapping[str, Tensor], steps: Mapping[str, float]) -> None:
        self._shapes = {name: p.shape for name, p in parameters.items()}
        self.names: dict[str, list[str]] = {}
        for name in parameters:
            self.names.setdefault(f"after {steps[name]:g} steps", []).append(name)

    def flat(self, tensors: Mapping[str, Tensor]) -> Gradient:
        """Return the tensors laid end to end, by number of steps."""
        result = {}
        for key, names in self.names.items():
            result[key] = torch.cat([tensors[name].flatten() for name in names])
        return result

    def by_name(self, flat: Gradient) -> Gradient:
        """Return views of the flat tensors, by name of the parameter."""
        result = {}
        for key, names in self.names.items():
            sizes = [self._shapes[name].numel() for name in names]
            for name, part in zip(names, flat[key].split(sizes), strict=True):
                result[name] = part.reshape(self._shapes[name])
        return result


def passes_over(update: PendingUpdate, batch: Batch, size: int | None = None) -> Passes:
    """Return passes over some rows, cut so that every rank has a share, as the trainer cuts its own.

    Args:
        update: what is trained, and how.
        batch: the rows.
        size: rows at once where the trainer has no token budget; by default those of a micro-batch.
    """
    ranks, experiment = update.ranks, update.experiment
    rows = min(size or experiment.trainer.micro_batch, -(-len(batch) // ranks.size))
    # a budget that counts on activations being computed again is too large: in evaluation mode all are kept
    budget = 0 if experiment.model.gradient_checkpointing else experiment.trainer.token_budget
    return Passes(update.policy.module, batch, rows, ranks, budget=budget)


def _adam(update: PendingUpdate) -> tuple[Layout, AdamState, Gradient]:
    """Return the layout, the trainer's own state and the weights that it steps, both laid out flat.

    Behind a bfloat16 model the weights are the fp32 ones.
    """
    saved, parameters = update.policy.live_optimizer_state(), trained(update.policy.module)
    group, device = saved["param_groups"][0], update.ranks.device
    settings = AdamSettings(tuple(group["betas"]), float(group["eps"]), float(group["weight_decay"]))
    states = saved["state"]  # there is none before the first optimizer step
    steps = {name: float(states[name]["step"]) if name in states else 0.0 for name in parameters}
    layout = Layout(parameters, steps)

    def moments(key: str) -> Gradient:
        return layout.flat(
            {
                name: states[name][key].to(device) if name in states else torch.zeros_like(p, dtype=_fp32(p))
                for name, p in parameters.items()
            }
        )

    first = moments("exp_avg")
    state = AdamState(
        step={key: steps[names[0]] for key, names in layout.names.items()},
        exp_avg=first,
        exp_avg_sq=moments("exp_avg_sq"),
        max_exp_avg_sq=None,
        settings=dict.fromkeys(first, settings),
        base_lr=None,
        coverage=Coverage(len(first), len(first), len(first), "names"),
    )
    masters = {name: saved["master"].get(name, p.detach()).to(device) for name, p in parameters.items()}
    return layout, state, layout.flat({name: p.to(_fp32(p)) for name, p in masters.items()})


def _sum(gradients: list[Gradient]) -> Gradient:
    sums = {name: g.clone() for name, g in gradients[0].items()}
    for gradient in gradients[1:]:
        for name, g in gradient.items():
            sums[name] += g
    return sums


def _weights(batch: Batch) -> Tensor:
    """Return the sum of the token weights of each row: [B]."""
    assert batch.weights is not None
    return batch.weights.double().sum(1)


def _fp32(parameter: Tensor) -> torch.dtype:
    return torch.promote_types(parameter.dtype, torch.float32)
