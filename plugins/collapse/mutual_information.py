"""The detector ``mutual_information`` measures whether reasonings still depend on the prompts that they answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, ClassVar, Literal

import attrs
import torch
from attrs import validators
from torch import Tensor

from ...core.components import CollapseDetector, CollapseSession, DetectorLoad, DetectorMemory, Rollouts
from . import mutual_information_estimates as estimates
from .mutual_information_samples import Pairs, Turn, first_turns, identical, trajectories, turns_of, uniform_turns

EMA_DECAY = 0.9


def _at_least_two(_: Any, attribute: attrs.Attribute[Any], value: int | str) -> None:
    if isinstance(value, int) and value < 2:
        raise ValueError(f"{attribute.name} must be at least 2, or all")


@attrs.frozen
class MutualInformation(CollapseDetector):
    """Measure how much the reasonings of a step say about the prompts that they were sampled for; never stop a run.

    Every drawn reasoning is scored after every drawn prompt: l_ij is its log-prob in nats, a_ij = l_ij / tokens. With N
    prompts (columns), the own prompt of reasoning i in column c:

        mi_estimate = mean_i (a_ic - ln mean_j exp a_ij)        mi_seq_estimate: the same of l        both at most ln N

    ``retrieval_accuracy`` is the share of reasonings that their own prompt explains best. A reasoning is what was
    sampled before the end of the thought (``</think>``). docs/mutual-information.md says how to read each metric.

    Each of the three ways to draw logs metrics of its own, at step 1 and at every step that ``compute_freq`` divides.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"scorer"})

    first_turn: bool = True
    """Whether first turns are drawn; the columns are the groups' first prompts (``collapse_first_turn_sample/...``)."""
    multi_turn: bool = True
    """Whether an episode and then one of its turns is drawn; each is a column (``collapse_trajectory_sample/...``)."""
    turn_uniform: bool = False
    """Whether all turns are drawn with the same probability; each is a column (``collapse_turn_sample/...``)."""
    num_samples: int | Literal["all"] = attrs.field(default=64, validator=_at_least_two)
    """Largest number of reasonings that are drawn in each way; the cost grows with its square."""
    compute_freq: int = attrs.field(default=5, validator=validators.ge(1))
    """Number of steps between measurements."""
    bootstrap: int = attrs.field(default=200, validator=[validators.ge(20), validators.le(100_000)])
    """Number of bootstrap replicates for the standard errors ``mi_estimate_se`` and ``mi_seq_estimate_se``."""
    micro_batch: int = attrs.field(default=32, validator=validators.ge(1))
    """Number of reasonings per forward pass; each holds the keys and values of a prompt, one layer at a time. With
    ``trainer.token_budget`` a pass has as many as twice that budget holds, for any number of prompts."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reasons why it cannot measure this experiment."""
        if not experiment.rollout.think:
            yield "measures thoughts, and rollout.think is false: there are none; take it out of collapse"
        elif not experiment.dialogue.component.thought_end:
            yield f"measures thoughts, and the dialogue {experiment.dialogue.name} does not say where one ends"

    def memory(self, load: DetectorLoad) -> DetectorMemory:
        """Return the pass of ``micro_batch`` reasonings, as if each had its own prompt, or of what the budget holds."""
        return DetectorMemory(peak=(load.packed or self.micro_batch * load.tokens) * load.token_pass)

    def start(self, context: Any) -> _Session:
        return _Session(self, context)


class _Session(CollapseSession):
    def __init__(self, settings: MutualInformation, context: Any) -> None:
        self._settings = settings
        self._context = context
        self.steps = 0
        """Number of steps so far."""
        self.emas: dict[str, float] = {}
        """Moving average of the marginal's std, by namespace and metric."""

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        self.steps += 1
        settings = self._settings
        if self.steps > 1 and self.steps % settings.compute_freq:
            return {}
        dialogue = self._context.experiment.dialogue.component
        turns = turns_of(rollouts, self._context.tokenizer, dialogue.thought_end, dialogue.last_thought_end)
        metrics = _counts(turns)
        if settings.first_turn:
            metrics |= self._family("collapse_first_turn_sample", first_turns, "first_turn", turns, scorer)
        if settings.multi_turn:
            metrics |= self._family("collapse_trajectory_sample", trajectories, "multi_turn", turns, scorer)
        if settings.turn_uniform:
            uniform = self._family("collapse_turn_sample", uniform_turns, "multi_turn", turns, scorer)
            # both ways to draw from all turns share one timing
            seconds = "timing_s/collapse_multi_turn"
            metrics |= uniform | {seconds: uniform[seconds] + metrics.get(seconds, 0.0)}
        return metrics

    def judge(self, step: int, metrics: Mapping[str, float]) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "emas": dict(self.emas)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.emas = dict(state["emas"])

    def _family(self, namespace: str, draw: Any, timing: str, turns: Sequence[Turn], scorer: Any) -> dict[str, float]:
        """Compute the metrics of one way to draw, or only the time if there are fewer than two columns."""
        started = time.perf_counter()
        settings = self._settings
        # a resumed run draws what the uninterrupted one would have drawn, and the run's other random numbers stay
        rng = Random(f"{self._context.experiment.seed}/{self.steps}/{namespace}")
        pairs = draw(turns, len(turns) if settings.num_samples == "all" else settings.num_samples, rng)
        metrics = {}
        if len(pairs.columns) > 1:
            logprobs_R_N = scorer.pairwise(pairs.columns, pairs.reasonings, settings.micro_batch).T
            generator = torch.Generator().manual_seed(rng.getrandbits(63))
            metrics = _metrics(pairs, logprobs_R_N, settings.bootstrap, generator)
            metrics |= self._averages(namespace, metrics)
        seconds = {f"timing_s/collapse_{timing}": time.perf_counter() - started}
        return {f"{namespace}/{name}": value for name, value in metrics.items()} | seconds

    def _averages(self, namespace: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Update the moving averages of the marginal's std, which begin with the first value; return also z-scores."""
        averages = {}
        for seq in ("", "_seq"):
            key = f"{namespace}/marginal_std{seq}"
            std = metrics[f"marginal_std{seq}"]
            self.emas[key] = EMA_DECAY * self.emas[key] + (1 - EMA_DECAY) * std if key in self.emas else std
            averages[f"marginal_std_ema{seq}"] = self.emas[key]
            averages[f"mi_zscore_ema{seq}"] = metrics[f"mi{seq}_estimate"] / (self.emas[key] + estimates.STD_EPS)
        return averages


def _counts(turns: Sequence[Turn]) -> dict[str, float]:
    """Count turns, the share of them that has a valid thought, and the share of thoughts that are the same."""
    first = [turn for turn in turns if turn.number == 0]
    valid = sum(bool(turn.thought) for turn in first)
    return {
        "collapse/valid_thinking_rate": sum(bool(turn.thought) for turn in turns) / len(turns),
        "collapse/first_turn_num_total": float(len(first)),
        "collapse/first_turn_num_valid": float(valid),
        "collapse/first_turn_valid_rate": valid / len(first),
        **{f"collapse/identical_{where}": share for where, share in identical(first).items()},
    }


def _metrics(pairs: Pairs, logprobs_R_N: Tensor, replicates: int, generator: torch.Generator) -> dict[str, float]:
    """Compute all metrics of one way to draw, from the log-prob of each reasoning after each column's prompt."""
    lengths_R = torch.tensor([len(reasoning) for reasoning in pairs.reasonings])
    matched_R = torch.tensor(pairs.matched)
    tasks_N = _numbered(pairs.tasks)
    per_token_R_N = estimates.per_token(logprobs_R_N, lengths_R)
    metrics = estimates.information(logprobs_R_N, lengths_R, matched_R)
    prompts_N = _numbered(pairs.columns)
    metrics |= estimates.retrieval(per_token_R_N, matched_R, prompts_N)
    error = estimates.retrieval_error(per_token_R_N, matched_R, prompts_N, tasks_N)
    if error is not None:
        metrics["retrieval_above_chance_se"] = error
    for seq, scores_R_N in (("", per_token_R_N), ("_seq", logprobs_R_N)):
        error = estimates.standard_error(scores_R_N, matched_R, tasks_N, replicates, generator)
        if error is not None:
            metrics[f"mi{seq}_estimate_se"] = error
    return metrics


def _numbered(values: Sequence[Any]) -> Tensor:
    """Number the distinct values from 0, in the order in which they first occur."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return torch.tensor([numbers[value] for value in values])
