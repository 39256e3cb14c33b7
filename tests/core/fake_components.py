"""A plugin with small components of every kind that an experiment names, without torch."""

# ruff: noqa: RUF009 - the calls in the class bodies make attrs fields

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs
from uncollapse import hookimpl
from uncollapse.core import components
from uncollapse.core.compose import fields
from uncollapse.core.errors import MissingExtraError

KINDS = (
    *(components.RolloutFilter, components.GroupMetric, components.KlVariant, components.KlController),
    *(components.AdvantageEstimator, components.PolicyLoss, components.SamplerCorrection, components.CollapseDetector),
    *(components.Environment, components.Dialogue, components.RolloutEngine, components.TokenHead),
    *(components.TrainBackend, components.ModelBuilder, components.Tracker),
    *(components.TaskSampler, components.BatchSampler, components.LossAggregation, components.Verifier),
    *(components.EpisodeFilter, components.RewardShaping, components.EntropyController),
)


class Anything(*KINDS):
    """Stands in for the behaviour of any kind; composition only looks whether the methods are there."""

    greedy: ClassVar[bool] = True

    def _do(self, *args, **kwargs):
        raise NotImplementedError

    select = score = shape = start = compute = make = build = correction = on = weights = verify = __call__ = _do
    system = ask = summary = parse = respond = _do
    actions = None
    instruction = ""


def share(instance, attribute, value):
    if not 0 < value <= 1:
        raise ValueError(f"{attribute.name} must lie in (0, 1], got {value}")


@attrs.frozen
class TopP(Anything):
    value: float = attrs.field(validator=share)
    type: Literal["largest", "smallest"] = "largest"
    include_zero: bool = True
    prob_mode: Literal["linear", "softmax"] = "linear"


@attrs.frozen
class TopK(Anything):
    value: int = attrs.field(validator=attrs.validators.ge(1))
    type: Literal["largest", "smallest"] = "largest"


@attrs.frozen
class NoFilter(Anything):
    keeps_all: ClassVar[bool] = True


@attrs.frozen
class Idle(Anything):
    idle: ClassVar[bool] = True


@attrs.frozen
class Spread(Anything):
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})


@attrs.frozen
class Entropy(Anything):
    needs: ClassVar[frozenset[str]] = frozenset({"entropies"})


@attrs.frozen
class Plain(Anything):
    """No parameters, no needs."""


@attrs.frozen
class Gae(Anything):
    gamma: float = 1.0
    lam: float = 1.0
    needs: ClassVar[frozenset[str]] = frozenset({"values"})


@attrs.frozen
class Grpo(Anything):
    eps: float = 1e-6
    needs: ClassVar[frozenset[str]] = frozenset({"groups"})


@attrs.frozen
class Remax(Anything):
    needs: ClassVar[frozenset[str]] = frozenset({"greedy_rewards"})


@attrs.frozen
class Misspelt(Anything):
    needs: ClassVar[frozenset[str]] = frozenset({"valeus"})


@attrs.frozen
class Sampler(Anything):
    greedy: ClassVar[bool] = False


@attrs.frozen
class Ppo(Anything):
    clip_low: float = 0.2
    clip_high: float = 0.28

    def __attrs_post_init__(self):
        if self.clip_high < self.clip_low:
            raise ValueError("clip_high is below clip_low")


@attrs.frozen
class Patience(Anything):
    """Stops when validation fails; it can only speak when there is one."""

    threshold: float = 0.1
    steps: int = attrs.field(default=3, validator=attrs.validators.ge(1))

    def check(self, experiment):
        if experiment.validation.every == 0:
            yield "it judges validations, and validation.every is 0"


@attrs.frozen
class Grid(Anything):
    size: tuple[int, int] = (6, 6)
    view: Literal["grid", "coord"] = "grid"
    split: str = "train"
    p: float | None = None
    names: tuple[str, ...] = ()


@attrs.frozen
class Wandb(Anything):
    project: str = "uncollapse"
    tags: tuple[str, ...] = attrs.field(default=(), converter=tuple)


@attrs.frozen
class Wraps(Anything):
    share: float = attrs.field(default=0.2, validator=share)
    of: Any = fields.component("policy_loss", "ppo")


@attrs.frozen
class Takes(Anything):
    of: Any = fields.component("policy_loss")


@attrs.frozen
class Exact(Anything):
    case: bool = False


@attrs.frozen
class Greedy(Anything):
    needs: ClassVar[frozenset[str]] = frozenset({"greedy_rewards"})


@attrs.frozen
class Quiz(Anything):
    """A task with a verifier, and with hints that are verifiers, too."""

    path: str = "quiz"
    verifier: Any = fields.component("verifier", "exact")
    hints: Any = fields.components("verifier")
    judge: Any | None = fields.component("verifier")


def make_function(depth: int = 1):
    return Plain()


def missing():
    raise MissingExtraError("vllm is not installed", "the extra [vllm]", "pip install 'uncollapse[vllm]'")


@hookimpl
def register_rollout_filters(register):
    register("top_p", TopP)
    register("top_k", TopK, aliases=("top_k_abs",))
    register("nofilter", NoFilter)


@hookimpl
def register_episode_filters(register):
    register("all", NoFilter)
    register("best", Spread)


@hookimpl
def register_reward_shapings(register):
    register("none", Idle)
    register("brief", Plain)
    register("greedy", Gae)


@hookimpl
def register_entropy_controllers(register):
    register("fixed", Idle)
    register("greedy", Gae)


@hookimpl
def register_group_metrics(register):
    register("reward_variance", Spread, aliases=("reward_std",))
    register("entropy", Entropy)
    register("reward", Plain)


@hookimpl
def register_kl_variants(register):
    for name in ("kl", "low_var_kl", "kl+"):
        register(name, Plain)


@hookimpl
def register_kl_controllers(register):
    register("fixed", Plain)


@hookimpl
def register_advantage_estimators(register):
    register("gae", Gae)
    register("grpo", Grpo)
    register("remax", Remax)
    register("misspelt", Misspelt)


@hookimpl
def register_policy_losses(register):
    register("ppo", Ppo)
    register("wraps", Wraps)
    register("takes", Takes)


@hookimpl
def register_sampler_corrections(register):
    register("none", Plain)


@hookimpl
def register_loss_aggregations(register):
    for name in ("token-mean", "token-sum", "seq-mean-token-mean"):
        register(name, Plain)


@hookimpl
def register_collapse_detectors(register):
    register("reward_variance_collapse", Spread)
    register("low_validation_success", Patience)
    register("empty_filter", Plain)
    register("no_signal", Plain)


@hookimpl
def register_environments(register):
    register("sokoban", Grid)
    register("bandit", Plain)
    register("quiz", Quiz)


@hookimpl
def register_verifiers(register):
    register("exact", Exact)
    register("greedy", Greedy)
    register("patience", Patience)


@hookimpl
def register_task_samplers(register):
    register("sequential", Plain)


@hookimpl
def register_batch_samplers(register):
    register("fixed", Plain)


@hookimpl
def register_dialogues(register):
    register("think_answer", Plain)


@hookimpl
def register_rollout_engines(register):
    register("hf", Plain)
    register("sampler", Sampler)


@hookimpl
def register_token_heads(register):
    register("auto", Plain)


@hookimpl
def register_train_backends(register):
    register("deepspeed", Plain)


@hookimpl
def register_model_builders(register):
    register("tiny", Plain)


@hookimpl
def register_trackers(register):
    register("jsonl", Plain)
    register("progress", Plain)
    register("wandb", Wandb)
    register("function", make_function)


@hookimpl
def register_experiments(register):
    register("small", {"environment": "sokoban", "model": {"path": "org/model"}, "rollout": {"groups": 4}})
    register("child", lambda: {"extends": "small", "rollout": {"group_size": 8}, "filter": {"select": "top_p(0.9)"}})
    register("loop_a", {"extends": "loop_b"})
    register("loop_b", {"extends": "loop_a"})
