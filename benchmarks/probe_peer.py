"""The peer of :mod:`probe_speed` computes one probe as the research code did, from the model's logits.

Rows padded to the longest of the batch, chunks of one or two prompts, log_softmax of all positions over the whole
vocabulary, gradients added up in dictionaries on the CPU, one more backward pass for each prompt of E for the
conditional variance, python loops over sequences, the entropy before the step and the update's gradient computed again
for every learning rate, all parameters copied before the step and copied back after it.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from uncollapse.core.components import Rollouts
from uncollapse.plugins.probe.checkpoint.adam_state import AdamState
from uncollapse.plugins.probe.estimation.clock import Clock
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks, start_ranks

AGAIN = "the update's gradient again for each eta"


@attrs.frozen(eq=False)
class Task:
    """What both sides are given."""

    policy: Policy
    adam: AdamState
    E: Rollouts
    U: Rollouts
    etas: tuple[float, ...] = (1.0,)
    ranks: Ranks = attrs.field(factory=start_ranks)


@attrs.frozen(eq=False)
class Numbers:
    """What both sides compute."""

    slope: float
    """dH/deta, nats per sequence."""
    per_prompt: Tensor
    """[N] X_n . Y-bar; their spread is the conditional variance."""
    etas: Tensor
    changes: Tensor
    """[etas] measured changes, nats per sequence."""

    @property
    def conditional_se(self) -> float:
        return float(self.per_prompt.std()) / len(self.per_prompt) ** 0.5


class Peer:
    """The same, from the model's logits."""

    def __init__(self, task: Task, clock: Clock) -> None:
        self.task, self.clock = task, clock
        self.model = task.policy.model
        self.trained = {name: p for name, p in task.policy.named_parameters() if p.requires_grad}

    def run(self) -> Numbers:
        task = self.task
        with self.clock("truth"):
            results = [self._truth(eta) for eta in task.etas]
        entropies, changes = results[0][0], [change for _, change in results]
        centre = sum(entropies) / len(entropies)
        with self.clock("sum X"):
            X = self._sum_X(centre)
        with self.clock("sum Y"):
            Y = self._sum_Y()
        slope = sum(float((X[name].double() * Y[name].double()).sum()) for name in X)
        with self.clock("conditional variance"):
            per_prompt = [self._product(row, centre, Y) for row in range(len(task.E.tokens))]
        return Numbers(slope, torch.tensor(per_prompt), torch.tensor(task.etas), torch.tensor(changes))

    def _score(self, rollouts: Rollouts, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and entropies [b, T - 1] at all positions, and the mask of those that were sampled."""
        device = self.model.device
        tokens, mask = rollouts.tokens[rows].to(device), rollouts.mask[rows].to(device)
        real = torch.arange(tokens.shape[1], device=device) < rollouts.lengths[rows].to(device)[:, None]
        logits = self.model(input_ids=tokens, attention_mask=real.long(), use_cache=False).logits[:, :-1]
        logp = (logits.float() / self.task.policy.temperature).log_softmax(-1)
        lp = logp.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return lp, -(logp.exp() * logp).sum(-1), mask[:, 1:]

    def _sequences(self, rollouts: Rollouts, rows: list[int]) -> list[tuple[Tensor, Tensor]]:
        """(S, H) of each sequence."""
        lp, H, mask = self._score(rollouts, rows)
        return [(lp[i][mask[i]].double().sum(), H[i][mask[i]].double().sum()) for i in range(len(rows))]

    def _gradients(self, loss: Tensor) -> dict[str, Tensor]:
        for parameter in self.trained.values():
            parameter.grad = None
        loss.backward()
        return {name: p.grad.detach().float().cpu() for name, p in self.trained.items()}

    def _sum_X(self, centre: float) -> dict[str, Tensor]:
        rollouts, count = self.task.E, len(self.task.E.tokens)
        total = {name: torch.zeros_like(p, device="cpu") for name, p in self.trained.items()}
        for start in range(0, count, 2):
            sequences = self._sequences(rollouts, list(range(start, min(start + 2, count))))
            loss = torch.stack([H + (H.detach() - centre) * S for S, H in sequences]).sum()
            for name, gradient in self._gradients(loss).items():
                total[name] += gradient
        return {name: value / count for name, value in total.items()}

    def _sum_Y(self) -> dict[str, Tensor]:
        """The mean policy gradient (uphill) over the root of the second moment."""
        rollouts = self.task.U
        prompts = rollouts.group_ids_P.tolist()
        total = {name: torch.zeros_like(p, device="cpu") for name, p in self.trained.items()}
        for start in range(0, len(prompts), 2):
            terms = []
            for prompt in prompts[start : start + 2]:
                rows = (rollouts.groups == prompt).nonzero().flatten().tolist()
                rewards = rollouts.raw_rewards_E[rollouts.episodes[rows]]
                advantages = rewards - rewards.mean()
                longest = max(int(rollouts.mask[row].sum()) for row in rows)
                for advantage, (S, _) in zip(advantages, self._sequences(rollouts, rows), strict=True):
                    terms.append(advantage.item() / longest / len(rows) * S)
            for name, gradient in self._gradients(torch.stack(terms).sum()).items():
                total[name] += gradient
        return {name: self._precondition(name, value / len(prompts)) for name, value in total.items()}

    def _precondition(self, name: str, gradient: Tensor) -> Tensor:
        adam = self.task.adam
        settings, second = adam.settings[name], adam.exp_avg_sq[name]
        second = second / (1 - settings.betas[1] ** adam.step[name])
        return gradient / (second.sqrt() + settings.eps)

    def _product(self, row: int, centre: float, Y: dict[str, Tensor]) -> float:
        ((S, H),) = self._sequences(self.task.E, [row])
        gradients = self._gradients(H + (H.detach() - centre) * S)
        return sum(float((gradients[name].double() * Y[name].double()).sum()) for name in gradients)

    def _truth(self, eta: float) -> tuple[list[float], float]:
        base = self._all_sequences()
        with self.clock(AGAIN):
            Y = self._sum_Y()
        saved = {name: p.detach().clone().cpu() for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter += eta * Y[name].to(parameter)
        moved = self._all_sequences()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(saved[name])
        weights = torch.tensor([new - old for (new, _), (old, _) in zip(moved, base, strict=True)]).double().exp()
        after = torch.tensor([H for _, H in moved]).double()
        before = [H for _, H in base]
        return before, float((weights * after).sum() / weights.sum()) - sum(before) / len(before)

    @torch.no_grad()
    def _all_sequences(self) -> list[tuple[float, float]]:
        sequences = []
        for start in range(0, len(self.task.E.tokens), 2):
            rows = list(range(start, min(start + 2, len(self.task.E.tokens))))
            sequences += [(S.item(), H.item()) for S, H in self._sequences(self.task.E, rows)]
        return sequences
