"""The schema of an experiment: what every key means, its type, its unit and its default.

An experiment file is a YAML 1.2 mapping with these sections; :mod:`.config` turns one into an :class:`Experiment`.
Fields made by :func:`component` take a registered name: ``top_p``, ``top_p(0.9)``, ``top_p(0.9, type=smallest)`` or
``{name: top_p, value: 0.9}``.
"""

# ruff: noqa: RUF009 - the calls in the class bodies make attrs fields

from __future__ import annotations

import functools
import math
import typing
from typing import Any, Literal

import attrs

from .fields import (
    RANK,
    TOKENS,
    TURNS,
    betas,
    component,
    components,
    count,
    directory,
    number,
    section,
    seed,
    temperature,
)
from .hints import type_hints
from .named import Named


@attrs.frozen
class Lora:
    """Low-rank adapters (peft); the reference model is then the policy with its adapter off, or with an earlier one."""

    rank: int = count(16, maximum=RANK)
    alpha: int = number(32, 0, 1_000_000, above=True)
    dropout: float = number(0.0, 0, 1)
    """Share of its inputs that each adapter drops at random in training."""
    targets: str | tuple[str, ...] = "all-linear"
    """Linear layers that are adapted: ``all-linear`` (all but the output layer), a regular expression that whole names
    of modules match, or a list of their last names, such as ``[q_proj, v_proj]``."""


@attrs.frozen
class WarmStart:
    """Supervised steps on demonstrations before reinforcement learning; the result is the run's start model.

    It is made once, and kept. With ``model.lora`` the adapter of the warm start is merged into the start model.
    """

    file: str | None = None
    """A .jsonl file of chats (``messages`` with roles and contents), whose assistant is learnt from; ``null`` has the
    environment demonstrate its own tasks."""
    demonstrations: int = count(480)
    """Number of episodes that the environment demonstrates."""
    noise: float = number(0.0, 0, 1)
    """Share of the demonstrated actions that are mistakes."""
    steps: int = count(60)
    """Optimizer steps."""
    batch: int = count(8)
    """Demonstrations of a step."""
    lr: float = number(5e-5, 0, 1, above=True)
    """Peak learning rate of AdamW; it rises over a tenth of the steps and falls to a tenth of itself."""
    tested: int = count(64, minimum=0)
    """Training tasks that the model plays afterwards, to see what it has learnt; 0 plays none."""
    min_valid: float = number(0.0, 0, 1)
    """Share of the turns in these tasks that must have a valid answer."""
    if_missed: Literal["go_on", "stop"] = "go_on"
    """What happens if they have not: the run goes on with a warning, or stops before its first step."""
    seed: int = seed(0)
    """Seed of the demonstrations, of their order and of these tasks' sampling."""


@attrs.frozen
class Model:
    """Exactly one of ``path`` (a Hugging Face name or directory) and ``build`` (a local model builder)."""

    path: str | None = directory()
    build: Named | None = component("model_builder")
    warm_start: WarmStart | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What the forward pass computes in; the optimizer's master weights are always fp32."""
    lora: Lora | None = None
    dropout: bool = False
    """Whether noise that the model's own configuration asks for in training (dropout, stochastic depth, jitter of a
    router) stays on, in policy and critic; that of an adapter is ``lora.dropout``."""
    head: Named = component("token_head", "auto")
    """What computes log-probs and entropies from the last hidden states."""
    gradient_checkpointing: bool = False
    liger: bool = False
    """Fused RMSNorm and SwiGLU of the package liger-kernel; needs a GPU."""


@attrs.frozen
class Rollout:
    """How episodes are sampled: ``groups`` times ``group_size`` conversations a step."""

    engine: Named = component("rollout_engine", "hf")
    groups: int = count(8)
    group_size: int = count(16)
    max_turns: int = count(5, maximum=TURNS)
    max_actions_per_turn: int = count(2)
    """Actions of one answer beyond this many are cut off without penalty."""
    max_actions: int = count(10)
    """Actions of one episode."""
    max_tokens: int = count(400, maximum=TOKENS)
    """Sampled tokens of one turn."""
    max_context: int = count(3600, maximum=TOKENS)
    """Tokens of one row; an episode that would grow beyond it is truncated."""
    temperature: float = temperature(1.0, greedy=False)
    top_p: float = number(1.0, 0, 1, above=True)
    """Only 1 is accepted: a truncated distribution has log-probs that the trainer cannot compute."""
    top_k: int = count(-1, or_minus_1=True)
    """Only -1 (all tokens) is accepted, for the same reason."""
    context_window: Literal["full", "limited_multi_turn", "single_turn"] = "full"
    window_turns: int = count(-1, or_minus_1=True)
    """Turns in the window of the two turn-level modes, the current one included; -1 is all of them."""
    think: bool = True
    """Whether the model is asked to think (``<think>...</think>``) before it answers."""
    format_penalty: float = number(0.1, 0)
    """Taken from the episode reward for each turn with an unreadable or invalid answer."""
    tasks: Named = component("task_sampler", "sequential")
    """Which tasks come next."""
    batch: Named = component("batch_sampler", "fixed")
    """Which groups make a training step: ``fixed`` samples ``groups`` of them."""
    seed: int = seed(10000)
    """Seed of the first training group; ``sequential`` tasks have the seeds from it upwards."""
    step_timeout: float | None = number(600.0, 0, above=True)
    """Seconds that an environment may take for one step, or to make an episode, and a dialogue to read an answer;
    ``None`` has no limit."""
    max_lost: float = number(0.1, 0, 1)
    """Share of the groups that are sampled together which may be lost, because the environment hangs or its server is
    down. Lost groups are dropped; beyond the share, or where all are lost, the run ends."""


@attrs.frozen
class Reward:
    """What advantages are made of: where the reward is put, how it is shaped and normalised (never for the filter)."""

    weights: dict[str, float] = attrs.field(factory=dict)
    """The weights of the rewards that the environment names, whose weighted sum is the reward of an action; by default
    1 each."""
    shaping: Named = component("reward_shaping", "none")
    """What becomes of an episode's reward before it is normalised; filters, detectors and validation see it raw."""
    placement: Literal["episode", "turn"] = "episode"
    """On the last sampled token of the episode, or each turn's reward on the last sampled token of the turn."""
    normalization: Literal["identity", "mean", "mean_std", "asym_clip"] = "identity"
    over: Literal["group", "batch"] = "group"


@attrs.frozen
class Filter:
    """Which groups train, which of their episodes, and what is done about those that do not."""

    select: Named = component("rollout_filter", "nofilter")
    metric: Named = component("group_metric", "reward_variance")
    episodes: Named = component("episode_filter", "all")
    """Which episodes of the kept groups train."""
    loss_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiply the policy's advantages by the kept ratio r of groups, or by its square root."""
    empty_stop_steps: int = count(5, 0)
    """``empty_filter`` stops the run after this many consecutive steps without any group; 0 never."""


@attrs.frozen
class Kl:
    """The KL term to the reference policy; ``coef: 0`` is no KL: the reference is not run, nor even loaded."""

    estimator: Named = component("kl", "low_var_kl")
    coef: float = number(0.0, 0)
    placement: Literal["loss", "reward"] = "loss"
    weight: Literal["none", "detached", "differentiable"] = "none"
    """Importance weight pi / pi_old on the loss term."""
    controller: Named = component("kl_controller", "fixed")
    """How the coefficient moves, and whether the reference does."""


@attrs.frozen
class Entropy:
    """The entropy bonus: loss - coef * mean token entropy. ``entropy_coeff`` is a short spelling of ``coef``."""

    coef: float = number(0.0, -math.inf)
    """Per nat; a negative one takes entropy away. A controller starts from it."""
    controller: Named = component("entropy_controller", "fixed")
    """How the coefficient moves."""


@attrs.frozen
class Trainer:
    """The optimizer steps. ``mini_batch`` counts rows of all ranks, ``micro_batch`` and ``score_batch`` of one."""

    backend: Named = component("train_backend", "deepspeed")
    steps: int = count(200)
    epochs: int = count(1)
    """Passes over the rollouts of a step."""
    mini_batch: int = count(32)
    """Rows per optimizer step."""
    micro_batch: int = count(4)
    """Rows per forward and backward pass."""
    score_batch: int = count(8)
    """Rows per forward pass without gradients."""
    token_budget: int = count(0, 0, TOKENS)
    """Tokens per forward and backward pass of one rank, in rows packed without padding, in place of the rows that
    ``micro_batch`` and ``score_batch`` count (a pass without gradients takes twice as many). 0 pads and counts rows."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lives in CPU memory: the optimizer's state and its step (ZeRO 1 to 3), or also the weights (ZeRO 3)."""
    lr: float = number(1e-6, 0)
    weight_decay: float = number(0.01, 0)
    betas: tuple[float, float] = betas()
    grad_clip: float = number(1.0, 0)
    """Global norm; 0 does not clip."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Decays to zero over the training steps of the whole run."""
    warmup_steps: int = count(0, 0)
    """Training steps of linear warm-up."""
    loss_aggregation: Named = component("loss_aggregation", "token-mean")
    """How the losses of all tokens of an optimizer step become one number."""
    save_every: int = count(-1, or_minus_1=True)
    """Steps between checkpoints; -1 saves the last one only."""
    save_last: bool = True
    keep: int = count(1, 0)
    """Checkpoints that are kept; the oldest are deleted once a newer one is complete. 0 keeps all."""
    log_rollouts: int = count(4, 0)
    """Episodes per logged step that are written as text."""
    log_rollouts_every: int = count(1)


@attrs.frozen
class Critic:
    """The value model: the same architecture with a scalar head. Only built when something needs values."""

    path: str | None = directory()
    """Where it starts from; ``None``: from the policy's model."""
    lr: float = number(1e-5, 0)
    weight_decay: float = number(0.01, 0)
    betas: tuple[float, float] = betas()
    grad_clip: float = number(1.0, 0)
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = count(0, 0)
    clip_value: float = number(0.5, 0, above=True)
    """Values move at most this far from the old ones before the loss stops rewarding it (reward units)."""
    policy_after: int = count(0, 0)
    """The policy trains only after this many steps of the critic alone."""
    shared: bool = False
    """No model of its own: a scalar head on the policy's trunk, in the policy's passes and its optimizer steps."""
    coef: float = number(0.1, 0, above=True)
    """Weight of a shared critic's value loss beside the policy's loss."""
    detach: bool = False
    """A shared critic reads the trunk without training it: the value loss trains the head alone."""


@attrs.frozen
class Validation:
    """Success on fixed groups, the same at every validation."""

    groups: int = count(512)
    group_size: int = count(1)
    every: int = count(10, 0)
    """Steps between validations; 0 validates never. The last step always validates otherwise."""
    before_train: bool = True
    temperature: float = temperature(0.5, greedy=True)
    seed: int = seed(123)
    environment: dict[str, Any] = attrs.field(factory=dict)
    """Parameters of the environment that differ in validation, e.g. ``{split: validation}``."""


@attrs.frozen
class Experiment:
    """Everything that decides what a run computes."""

    environment: Named = component("environment")
    dialogue: Named = component("dialogue", "think_answer")
    """How a task becomes messages, and a response becomes actions."""
    model: Model = section(Model)
    rollout: Rollout = section(Rollout)
    reward: Reward = section(Reward)
    filter: Filter = section(Filter)
    kl: Kl = section(Kl)
    entropy: Entropy = section(Entropy)
    advantage: Named = component("advantage", "gae")
    policy_loss: Named = component("policy_loss", "ppo")
    correction: Named = component("sampler_correction", "none")
    """Weights on the policy loss for a sampler whose log-probs are not the trainer's."""
    soft_advantage_reweight: bool = False
    """Weight each group's advantages by its reward std over the largest one. Needs a group estimator."""
    zero_task_advantage: bool = False
    """Train without a task: advantages are zero, while the critic, entropy and KL terms go on."""
    critic: Critic | None = section(Critic)
    collapse: tuple[Named, ...] = components(
        "collapse", "reward_variance_collapse", "low_validation_success", "empty_filter", "no_signal"
    )
    validation: Validation = section(Validation)
    trainer: Trainer = section(Trainer)
    trackers: tuple[Named, ...] = components("tracker", "jsonl", "progress")
    strict_trackers: bool = False
    """Whether a tracker that fails ends the run."""
    plugins: tuple[str, ...] = ()
    """Plugin files, as with ``--plugin FILE.py``; they are loaded before anything is read."""
    seed: int = seed(0)


def section_of(hint: Any) -> type | None:
    """The section that a field's type allows (``Lora | None`` allows :class:`Lora`); ``None`` if there is none."""
    members = (hint, *typing.get_args(hint))
    return next((member for member in members if attrs.has(member) and member is not Named), None)


@functools.cache
def keys(cls: type = Experiment) -> dict[str, attrs.Attribute[Any]]:
    """Every dotted key of an experiment (or of a section) with its field; the sections themselves are among them."""
    fields_by_key, hints = {}, type_hints(cls)
    for field in attrs.fields(cls):
        fields_by_key[field.name] = field
        if section := section_of(hints[field.name]):
            fields_by_key |= {f"{field.name}.{key}": below for key, below in keys(section).items()}
    return fields_by_key
