"""A training step is taken apart into the passes of its models and the rest, in processor seconds."""

from __future__ import annotations

import copy
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor
from uncollapse.core.components import Scores
from uncollapse.core.compose.experiment import Experiment
from uncollapse.plugins.rollout.episode import Episode
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.clock import StageClock
from uncollapse.plugins.training.step.loop import Loop

REST = "rest"
PASSES = ("play", "greedy", "score", "reference", "values", "update_critic", "update_actor")
STAGES = {"score", "reference", "values", "update_critic"}
"""Stages of the loop that are passes as a whole."""
RECORDING = "recording"
"""Where the time goes that a recording takes by itself; it is no part of a step."""


class Account(StageClock):
    """Processor seconds of a step, each charged to one pass or to the rest: to the innermost block that is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open()

    def open(self) -> None:
        """Begin a step."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._blocks = [REST]
        self._since = time.process_time()

    def charge(self, name: str, seconds: float) -> None:
        """Add seconds that were spent before."""
        self.seconds[name] += seconds

    def enter(self, name: str) -> None:
        self.settle()
        self._blocks.append(name)

    def leave(self) -> None:
        self.settle()
        self._blocks.pop()

    def settle(self) -> None:
        """Charge the time since the last call to the block that is open."""
        now = time.process_time()
        self.seconds[self._blocks[-1]] += now - self._since
        self._since = now

    @contextmanager
    def spent(self, name: str) -> Iterator[None]:
        """Charge the block, except for blocks within it, to ``name``."""
        self.enter(name)
        depth = len(self._blocks)
        yield
        # a loss without a gradient never comes back from its backward pass
        while len(self._blocks) >= depth:
            self.leave()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        self.stage = stage
        with self.spent(stage if stage in STAGES else REST):
            yield


class Border(torch.autograd.Function):
    """Tensors pass through unchanged; a function is called once their gradients are there."""

    @staticmethod
    def forward(ctx: Any, crossed: Callable[[], None], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.crossed = crossed
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.crossed()
        return None, *gradients


def charged(objective: Any, account: Account) -> Callable[[Scores, Batch], Any]:
    """Return the objective of an update, whose forward and backward pass down to the scores belong to the rest."""

    def call(scores: Scores, batch: Batch) -> Any:
        with account.spent(REST):
            values = attrs.asdict(scores, recurse=False)
            traced = {name: value for name, value in values.items() if value is not None and value.requires_grad}
            if traced:
                passed = Border.apply(account.leave, *traced.values())
                scores = attrs.evolve(scores, **dict(zip(traced, passed, strict=True)))
            loss, metrics = objective(scores, batch)
            (loss,) = Border.apply(lambda: account.enter(REST), loss)
            return loss, metrics

    return call


# --- a step, again and again ------------------------------------------------------------------------------------------


@attrs.frozen
class Step:
    """What a training step took."""

    seconds: Mapping[str, float]
    """Processor seconds of each pass, and of the rest."""
    episodes: int
    """Number of episodes that were played."""
    rows: int
    """Number of rows that trained."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def least(steps: Sequence[Step]) -> Step:
    """Return the step in which every part took the least of all repeats of it."""
    names = {name for step in steps for name in step.seconds}
    seconds = {name: min(step.seconds.get(name, 0.0) for step in steps) for name in names}
    return attrs.evolve(steps[-1], seconds=seconds)


@attrs.frozen
class Recording:
    """Episodes that were played, with the processor seconds that they took, by all that they depend on."""

    played: dict[tuple[Any, ...], tuple[list[Episode], float]] = attrs.field(factory=dict)

    def attach(self, sampler: Any, session: Session) -> None:
        """Let the sampler play nothing twice."""
        original = sampler.play

        def play(environment: Any, seeds: Sequence[int], size: int, seed: int, temperature: float) -> list[Episode]:
            name = "play" if temperature else "greedy"
            with session.account.spent(RECORDING):
                key = (tuple(seeds), size, seed, temperature)
                if key not in self.played:
                    started = time.process_time()
                    episodes = original(environment, seeds, size, seed, temperature)
                    self.played[key] = episodes, time.process_time() - started
                episodes, seconds = self.played[key]
            session.account.charge(name, seconds)
            session.episodes += len(episodes)
            return episodes

        sampler.play = play


class Session:
    """A run of one experiment that takes its second training step as often as it is asked to."""

    def __init__(self, experiment: Experiment, recording: Recording) -> None:
        ranks = start_ranks()
        self.account = Account()
        self.episodes = 0
        parts = assemble(experiment, ranks)
        self.loop = Loop(experiment, parts, ranks)
        self.loop._clock = self.account
        recording.attach(parts.sampler, self)
        self._watch(parts.policy)
        self.loop.train_step()
        self.state = copy.deepcopy(self.loop.state_dict())
        models = [model.module for model in (parts.policy, parts.critic) if model is not None]
        self.weights = [(weight, weight.detach().clone()) for model in models for weight in model.parameters()]
        self.close = parts.close

    def _watch(self, policy: Any) -> None:
        """Charge the passes of the policy that are within other stages."""
        score, update = policy.score, policy.update

        def charged_score(*args: Any, **options: Any) -> Any:
            with self.account.spent("score"):
                return score(*args, **options)

        def charged_update(micro_batches: Any, objective: Any, *args: Any, **options: Any) -> Any:
            with self.account.spent("update_actor"):
                return update(micro_batches, charged(objective, self.account), *args, **options)

        policy.score, policy.update = charged_score, charged_update

    def step(self) -> Step:
        """Take the step, from the weights and the state that the first one left."""
        self.loop.load_state_dict(copy.deepcopy(self.state))
        for weight, value in self.weights:
            weight.data.copy_(value)
        self.episodes = 0
        gc.collect()
        gc.disable()
        self.account.open()
        metrics = self.loop.train_step()
        self.account.settle()
        gc.enable()
        self.account.seconds.pop(RECORDING, None)
        return Step(dict(self.account.seconds), self.episodes, int(metrics.get("train/rows", 0)))
