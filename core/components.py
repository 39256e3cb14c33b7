"""The contracts: what each kind of component is given and gives back.

A component is a frozen attrs class. Its fields are its parameters, its methods are its behaviour, its docstring is what
``uncollapse show`` prints. It may declare ``needs``, a subset of :data:`NEEDS`; composition refuses what cannot be
had and the training loop runs only the passes that somebody needs. A kind with state has ``start(context) ->
session``; only sessions carry ``state_dict()`` and ``load_state_dict()``.

Shape letters: ``P`` groups, ``E`` episodes, ``B`` rows (one per episode, or one per turn in turn-level context
windows), ``T`` tokens, ``V`` vocabulary. Log-probs, entropies and KL are in nats at the sampling temperature.
``x[b, t]`` always speaks of token ``t`` itself (its log-prob given the tokens before it, the value of the state
before it): no shift is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import attrs

from .errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

NEEDS = frozenset({"values", "groups", "turns", "entropies", "reference", "greedy_rewards", "scorer"})
"""What a component may ask for: critic values; groups of at least two; several turns; token entropies; reference
log-probs; rewards of a greedy rollout per group; a scorer of arbitrary token sequences."""


# --- data -----------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Rollouts:
    """Sampled conversations as right-padded rows of the very tokens that were sampled.

    Raises:
        RunError: a reward stands off the mask, a raw reward is not finite, or shapes disagree.
    """

    tokens: Tensor
    """[B, T] int64, right padded."""
    mask: Tensor
    """[B, T] bool: token t was sampled by the policy (and so trains)."""
    turns: Tensor
    """[B, T] int64: the turn of a sampled token, -1 off the mask."""
    logprobs: Tensor
    """[B, T] nats: the sampler's log-prob of each sampled token, 0 off the mask."""
    rewards: Tensor
    """[B, T]: what the advantage estimator sees, placed on sampled tokens, after reward normalisation."""
    episodes: Tensor
    """[B] int64: the row's episode, an index into ``raw_rewards_E``."""
    groups: Tensor
    """[B] int64: the row's group id; rows of a group share their first prompt."""
    raw_rewards_E: Tensor
    """[E]: episode reward with format penalty, before any normalisation."""
    group_ids_P: Tensor
    """[P] int64: the distinct group ids, in batch order."""
    entropies: Tensor | None = None
    """[B, T] nats: token entropy of the policy where the mask is set, if somebody needs it."""
    lengths: Tensor | None = None
    """[B] int64: tokens before the right padding; ``None`` means that no row is padded."""

    def __attrs_post_init__(self) -> None:
        for name in ("mask", "turns", "logprobs", "rewards"):
            shape = tuple(getattr(self, name).shape)
            if shape != tuple(self.tokens.shape):
                raise RunError(f"rollouts.{name} has shape {shape}, tokens have {tuple(self.tokens.shape)}")
        if bool((self.rewards[~self.mask] != 0).any()):
            raise RunError(
                "a reward stands on a token that the policy did not sample",
                "rollouts.rewards off rollouts.mask",
                "place rewards on sampled tokens: the last token of the turn or of the episode",
            )
        if not bool(self.raw_rewards_E.isfinite().all()):
            raise RunError(
                "an episode reward is NaN or infinite",
                f"rollouts.raw_rewards_E at {(~self.raw_rewards_E.isfinite()).nonzero().flatten().tolist()}",
                "the environment must return finite rewards",
            )

    def groups_of_episodes(self) -> Tensor:
        """[E] int64: the group id of each episode, from any of its rows."""
        groups_E = self.groups.new_zeros(len(self.raw_rewards_E))
        groups_E[self.episodes] = self.groups
        return groups_E

    def rows_of(self, keep_P: Tensor) -> Tensor:
        """[B] bool: the rows of the kept groups."""
        return (self.groups[:, None] == self.group_ids_P[keep_P][None, :]).any(1)

    def select(self, keep_P: Tensor) -> Rollouts:
        """The rows of the kept groups, in their original order; episodes are renumbered."""
        kept_ids = self.group_ids_P[keep_P]
        rows = self.rows_of(keep_P)
        episodes_E = (self.groups_of_episodes()[:, None] == kept_ids[None, :]).any(1)
        renumbered_E = episodes_E.long().cumsum(0) - 1
        per_row = {
            name: value[rows]
            for name in ("tokens", "mask", "turns", "logprobs", "rewards", "groups", "entropies", "lengths")
            if (value := getattr(self, name)) is not None
        }
        return attrs.evolve(
            self,
            **per_row,
            episodes=renumbered_E[self.episodes[rows]],
            raw_rewards_E=self.raw_rewards_E[episodes_E],
            group_ids_P=kept_ids,
        )


@attrs.frozen(eq=False)
class Advantages:
    """What an advantage estimator returns; both are zero off the mask."""

    advantages: Tensor
    """[B, T]."""
    returns: Tensor
    """[B, T]: the critic's target."""


@attrs.frozen
class Verdict:
    """A detector's judgement that the run has collapsed, with what it saw."""

    detector: str
    step: int
    reason: str
    evidence: Mapping[str, Any] = attrs.field(factory=dict)
    stop: bool = True
    """Whether the run is to stop; otherwise the verdict is recorded, and the run goes on."""


@attrs.frozen
class Step:
    """What an environment answers to one action."""

    observation: str
    reward: float
    done: bool = False
    success: bool = False
    metrics: Mapping[str, float] = attrs.field(factory=dict)
    """Numbers about this action, e.g. ``{"action_is_effective": 1.0}``; averaged over the actions of an episode."""


@attrs.frozen
class Sampling:
    """How to sample; temperature 0 is greedy (log-probs are then those at temperature 1)."""

    temperature: float = 1.0
    max_tokens: int = 400
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are part of it."""


@attrs.frozen
class Completion:
    """One sampled continuation: token ids, their log-probs in nats at the sampling temperature, and why it ended."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop_reason: str
    """``eos`` (an end-of-turn token, which is part of ``tokens``), ``stop`` (a stop string) or ``length``."""


@attrs.frozen(eq=False)
class Scores:
    """What a forward pass says of the tokens on the mask; zero elsewhere, ``None`` where not asked for."""

    logprobs: Tensor | None = None
    """[B, T] nats."""
    entropies: Tensor | None = None
    """[B, T] nats."""
    values: Tensor | None = None
    """[B, T] reward units: the critic's value of the state before token t."""


Wanted = Literal["none", "value", "gradient"]
"""Whether a statistic is left out, computed, or computed so that it can be differentiated."""


@attrs.frozen(eq=False)
class TokenScores:
    """What a token head says of N tokens: fp32, ``None`` where not asked for."""

    logprobs: Tensor
    """[N] nats: log p of the target. Always differentiable."""
    entropies: Tensor | None = None
    """[N] nats: H = -sum_v p_v log p_v."""
    second_moments: Tensor | None = None
    """[N] nats squared: M = sum_v p_v (log p_v)^2, so that M - H^2 is the varentropy, the variance of log p."""


# --- kinds ----------------------------------------------------------------------------------------------------------


class RolloutFilter(Protocol):
    """Kind ``rollout_filter``: which groups train.

    An attribute ``keeps_all`` that is true says that all groups are kept whatever the scores: then none are computed.
    """

    def select(self, scores_P: Tensor) -> Tensor:
        """[P] scores -> [P] bool in the original order. Raises RunError on NaN; may select nothing."""
        ...


class GroupMetric(Protocol):
    """Kind ``group_metric``: one score per group."""

    needs: ClassVar[frozenset[str]]

    def score(self, rollouts: Rollouts) -> Tensor:
        """-> [P] scores in the order of ``rollouts.group_ids_P``."""
        ...


class KlVariant(Protocol):
    """Kind ``kl``: a per-token estimate of KL(policy || reference) from the sampled token's log-probs."""

    value_bias: ClassVar[str]
    gradient_bias: ClassVar[str]

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        """[B, T], [B, T] -> [B, T] nats, differentiable in ``logprobs``."""
        ...


class KlController(Protocol):
    """Kind ``kl_controller``: how the KL coefficient moves."""

    def start(self, coef: float) -> KlControllerSession: ...


class KlControllerSession(Protocol):
    coef: float

    def update(self, kl: float, episodes: int) -> None:
        """``kl``: mean over sequences of the masked mean token KL in nats; ``episodes``: how many sequences."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class AdvantageEstimator(Protocol):
    """Kind ``advantage``: credit for each sampled token, computed on the whole batch before it is sharded."""

    needs: ClassVar[frozenset[str]]

    def compute(
        self,
        *,
        rewards: Tensor,
        mask: Tensor,
        groups: Tensor,
        values: Tensor | None = None,
        turns: Tensor | None = None,
        episodes: Tensor | None = None,
        greedy_rewards: Tensor | None = None,
    ) -> Advantages:
        """rewards, mask, values, turns [B, T]; groups, episodes, greedy_rewards [B]. Zero off the mask."""
        ...


class PolicyLoss(Protocol):
    """Kind ``policy_loss``: the surrogate loss of each token, before any aggregation."""

    def __call__(
        self, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """[B, T] x 4 -> loss [B, T], zero off the mask, and metrics as (sum, count) pairs that add up."""
        ...


class SamplerCorrection(Protocol):
    """Kind ``sampler_correction``: weights for a sampler whose probabilities are not quite the trainer's.

    They multiply each token's term of the policy loss, beside the policy loss' own ratio policy / old policy, and no
    other term. An attribute ``idle`` that is true says that all weights are 1: then nothing is computed.

    Rows must not depend on each other: the loss asks for those of one forward pass at a time, the metrics are those of
    all rows of the step together.
    """

    def correction(
        self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """[B, T] x 3 -> weights [B, T] without gradient, zero off the mask, and metrics.

        ``old_logprobs`` are the trainer's, ``sampler_logprobs`` the engine's, of the same tokens at the same weights.
        """
        ...


class Env(Protocol):
    """One episode. Used once: there is no reset. Observations and actions are text."""

    def initial_observation(self) -> str: ...

    def step(self, action: str) -> Step:
        """Raises ValueError on an action that ``Environment.actions`` does not list; free text is never an error."""
        ...


class Environment(Protocol):
    """Kind ``environment``: makes episodes. Must be picklable."""

    @property
    def instruction(self) -> str:
        """What the task is, for the system message (with the legend of symbols, if there are any)."""
        ...

    @property
    def actions(self) -> tuple[str, ...] | None:
        """The names of the actions, matched without regard to case; ``None`` for free text."""
        ...

    def make(self, seed: int, member: int = 0) -> Env:
        """``seed`` fixes the task (members of a group share it and see the same first prompt), ``member`` the noise."""
        ...


class RolloutEngine(Protocol):
    """Kind ``rollout_engine``: token ids in, token ids and log-probs out.

    Optional: ``own_weights`` (true where it samples with a copy of the policy, which must be synced) and
    ``require(ranks)``, which raises RequestError where the engine cannot run on this machine beside so many trainers,
    before a model is loaded.
    """

    greedy: ClassVar[bool]
    """Whether it can decode greedily (``greedy_rewards`` need that)."""

    def start(self, model: Any, tokenizer: Any, *, max_context: int | None = None) -> RolloutEngineSession:
        """Begin to serve.

        Args:
            model: a Hugging Face causal language model, shared with the trainer where the engine can do that.
            tokenizer: the model's.
            max_context: the longest prompt and response together (tokens), for engines that reserve memory.
        """
        ...


class RolloutEngineSession(Protocol):
    """A running engine.

    Optional, for engines that take single requests: ``submit(key, prompt, sampling, seed)`` queues one, and
    ``finished() -> [(key, Completion), ...]`` waits until at least one is done. Optional as well: ``sleep() -> bool``
    gives memory back while the trainer works (true if it did: then ``sync`` comes before the next request), and
    ``adapter``, true where ``sync`` takes the tensors of a LoRA adapter, by peft's names.
    """

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        """One completion per prompt, in order; the same seed and prompts give the same completions."""
        ...

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the trainer's weights (full tensors by Hugging Face name), and wake up."""
        ...

    def close(self) -> None: ...


class TokenHead(Protocol):
    """Kind ``token_head``: statistics of next-token distributions from hidden states, never all logits at once."""

    def on(self, device: torch.device) -> TokenHead:
        """The head that computes on ``device``: this one, or the one that it stands for.

        Raises RequestError if it cannot compute there, or needs a library that is not installed.
        """
        ...

    def __call__(
        self,
        hidden_N_H: Tensor,
        weight_V_H: Tensor,
        targets_N: Tensor,
        *,
        temperature: float | Tensor = 1.0,
        softcap: float | None = None,
        entropy: Wanted = "value",
        second_moment: Wanted = "none",
    ) -> TokenScores:
        """Of softmax(cap * tanh(h W^T / cap) / temperature), in fp32 from the logits on.

        Whatever is asked for with ``gradient``, and always the log-probs, can be differentiated in hidden and weight. A
        head that cannot do that raises RequestError; it never leaves a term of a gradient out.

        Args:
            hidden_N_H: last hidden states, one for each target that they predict.
            weight_V_H: the output embedding, in the same dtype.
            targets_N: int64 token ids.
            temperature: one for all rows, or a tensor [N] with one for each; no gradient flows into it.
            softcap: Gemma 2's soft cap of the logits, before the temperature; ``None`` has none.
            entropy: whether ``entropies`` are wanted.
            second_moment: whether ``second_moments`` are wanted.
        """
        ...


class TrainBackend(Protocol):
    """Kind ``train_backend``: owns the optimizer and the processes' communication."""

    def start(
        self,
        module: Any,
        optimizer: Any,
        *,
        zero_stage: int,
        dtype: str,
        ranks: Any,
        offload: str = "none",
        own_lr: Mapping[str, float] | None = None,
    ) -> TrainEngine:
        """``module(batch, **options)`` returns the fields of :class:`Scores` as a dict.

        ``optimizer``: the ``trainer`` or ``critic`` section; ``ranks``: this process among those of the run;
        ``offload``: as in the ``trainer`` section. ``own_lr`` is given only for a critic that shares the policy's
        trunk: the base learning rate of parameters whose names begin so, where it is not the optimizer's.
        """
        ...


class TrainEngine(Protocol):
    """One trained model (the policy or the critic)."""

    module: Any

    def score(self, batch: Any, **options: Any) -> Scores:
        """A forward pass without gradients; ``options`` go to the module."""
        ...

    def update(self, micro_batches: Sequence[Any], loss: Any, lr_scale: float, **options: Any) -> dict[str, float]:
        """One optimizer step on the sum of ``loss(scores, micro_batch)`` over all micro-batches and ranks."""
        ...

    def weights(self, trained: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the module in full, by name; or only the parameters that train."""
        ...

    def optimizer_state(self) -> dict[str, Any]:
        """``{state: {parameter name: {step, exp_avg, exp_avg_sq}}, param_groups, master}``, full tensors on the CPU."""
        ...

    def load_optimizer_state(self, saved: dict[str, Any]) -> None: ...


class CollapseDetector(Protocol):
    """Kind ``collapse``: watches a run and may stop it."""

    needs: ClassVar[frozenset[str]]

    def start(self, context: Any) -> CollapseSession:
        """``context.experiment`` is the composed experiment, ``context.tokenizer`` the policy's.

        A detector that only judges is also replayed over a finished run, where there is no tokenizer.
        """
        ...


class CollapseSession(Protocol):
    """What a detector does in a run.

    Optional: ``before_update(update) -> dict[str, float]``, called on all ranks alike just before the policy is
    updated, in every step that does so. ``update`` is a ``plugins.training.pending.PendingUpdate``: the policy and its
    optimizer's state, rows with advantages and weights, the loss, the learning rate. It must change nothing.
    """

    def measure(self, rollouts: Rollouts, scorer: Any) -> dict[str, float]:
        """Metrics of this step's rollouts, before the filter. Called on all ranks alike, in every step.

        ``scorer(batch)`` gives :class:`Scores`, and ``scorer.pairwise(prompts, continuations)`` the [prompts,
        continuations] log-probs of token ids after token ids; both are for detectors that need the scorer.
        """
        ...

    def judge(self, step: int, metrics: Mapping[str, float]) -> Verdict | None:
        """A verdict stops the run. Sees nothing but the logged metrics, so that it can be replayed offline."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class VarianceEstimator(Protocol):
    """Kind ``variance``: the standard error of a stated estimand of the entropy probe, in float64.

    ``needs`` names fields of the terms rather than members of :data:`NEEDS`; the probe runs only the passes that
    somebody needs. Standard errors with different ``estimand`` must not be compared.
    """

    estimand: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def estimate(self, terms: Any) -> Any:
        """``estimators.variance.terms``: Terms -> Estimate (se, var, estimand, units, n, status, ...).

        Raises RunError if a needed term is missing. Where the terms hold no variance (one prompt, equal or non-finite
        terms) the status says so, and se and var are NaN.
        """
        ...


class Tracker(Protocol):
    """Kind ``tracker``: what ``start`` returns is registered on the run's own plugin manager.

    It implements any of the runtime hooks (``run_started``, ``step_finished``, ...); they are called on rank 0.
    """

    def start(self, run: Any) -> Any:
        """``run``: the :class:`~uncollapse.core.runs.RunDirectory`."""
        ...


class Launcher(Protocol):
    """Kind ``launcher``: runs the jobs of a sweep on slots."""

    def run(self, jobs: Sequence[Any], on_start: Any = None, on_finish: Any = None) -> list[int]:
        """-> the last exit code of each job, in order; never raises because a job failed.

        ``on_start(job)`` and ``on_finish(job, exit_code)`` are called as jobs come and go. A job that ``on_finish``
        returns takes the place of the one that has ended, at the end of the queue.
        """
        ...

    def describe(self) -> list[str]:
        """-> where jobs would run, one line per slot. Both raise RequestError, before anything starts."""
        ...


class ModelBuilder(Protocol):
    """Kind ``model_builder``: makes a small model on the spot where no downloaded one exists."""

    def build(self, directory: Path, environment: Environment) -> None:
        """Write a Hugging Face model and tokenizer (with chat template) into an empty ``directory``."""
        ...
