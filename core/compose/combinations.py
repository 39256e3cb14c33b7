"""What cannot be had together: checks of a composed experiment that no single key shows.

A component says what it needs by ``needs`` (a subset of :data:`~.components.NEEDS`). Whatever else only it can know it
says in ``check(experiment) -> Iterable[str]``: reasons why it cannot work in this experiment.

``turns`` is never refused: with a single turn, credit over turns is credit over tokens, which is well defined.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from ..components import NEEDS, AdvantageEstimator
from ..components.estimators import MOVES
from ..errors import MissingExtraError, nearest
from .batch_sizes import batch_problems, not_multiple
from .experiment import Critic, Experiment, keys
from .named import Named
from .objective import objective_problems
from .problems import CompositionError, Problem, failure
from .reward_names import reward_problems

GIVEN = {
    "episode_filter": frozenset({"groups", "turns", "entropies", "sampler_logprobs"}),
    "reward_shaping": frozenset({"groups", "turns"}),
    "entropy_controller": frozenset({"entropies"}),
    "group_metric": frozenset({"groups", "turns", "entropies", "sampler_logprobs"}),
    "advantage": frozenset(
        {
            *("values", "groups", "turns", "greedy_rewards", "rewards_by_name"),
            *("logprobs", "entropies", "second_moments", "collision_probs"),
        }
    ),
    "policy_loss": frozenset(
        {"groups", "turns", "logprobs", "entropies", "sampler_logprobs", "reference", "minibatch"}
    ),
}
"""Kind -> what its components can be given, where that is less than there is."""


def components(experiment: Experiment) -> Iterator[tuple[str, Named]]:
    """Every component of an experiment, with its dotted key; those inside of others come after them."""
    return _named("", experiment)


def _named(key: str, value: object) -> Iterator[tuple[str, Named]]:
    if isinstance(value, Named):
        yield key, value
        for name, held in value.inner:
            yield from _named(f"{key}.{name}", held)
    elif isinstance(value, tuple):
        for item in value:
            yield from _named(f"{key}.{item.name}", item)
    elif value is not None:
        section: type = type(value)
        for name in _holders(section):
            yield from _named(f"{key}.{name}" if key else name, getattr(value, name))


@functools.cache
def _holders(section: type) -> tuple[str, ...]:
    """The fields of a section that hold components, or sections with components."""
    fields = keys(section)
    direct = [name for name in fields if "." not in name]
    return tuple(
        name
        for name in direct
        if any("kind" in field.metadata for key, field in fields.items() if key == name or key.startswith(f"{name}."))
    )


def wants(experiment: Experiment) -> list[tuple[str, Named, frozenset[str]]]:
    """The components that take part, with what each needs.

    The group metric takes no part where the filter keeps every group (a filter says so by ``keeps_all``), nor does the
    KL variant where the coefficient is 0, nor what says itself that it does nothing (``keeps_all``, ``idle``).
    """
    idle = {
        "filter.metric": experiment.filter.select.component.keeps_all,
        "filter.episodes": experiment.filter.episodes.component.keeps_all,
        "reward.shaping": experiment.reward.shaping.component.idle,
        "kl.estimator": experiment.kl.coef == 0,
        "entropy.controller": experiment.entropy.controller.component.idle,
    }
    silent = [key for key, is_idle in idle.items() if is_idle]
    return [
        (key, named, frozenset(named.component.needs))
        for key, named in components(experiment)
        if not any(key == each or key.startswith(f"{each}.") for each in silent)
    ]


def needs(experiment: Experiment) -> frozenset[str]:
    """What the training loop must provide: what the components that take part need; the reference for a KL term."""
    needed = frozenset().union(*(needed for _, _, needed in wants(experiment)))
    return needed | {"reference"} if experiment.kl.coef > 0 else needed


def learns(advantage: Named) -> bool:
    """Whether an advantage estimator, or one that it holds, has state that goes on from step to step."""
    own_session = type(advantage.component).start is not AdvantageEstimator.start
    return own_session or any(learns(held) for _, held in advantage.inner if held.kind == "advantage")


def combination_problems(experiment: Experiment) -> list[Problem]:
    """Why an experiment whose every key is right cannot work all the same."""
    if broken := _broken(experiment):
        return broken
    return [
        *_needs(experiment),
        *_tools(experiment),
        *_warm_start(experiment),
        *_sampling(experiment),
        *batch_problems(experiment),
        *_training(experiment),
        *reward_problems(experiment, wants(experiment)),
        *_reference(experiment),
        *_shared_critic(experiment),
        *objective_problems(experiment, needs(experiment)),
        *_own_checks(experiment),
    ]


def check_ranks(experiment: Experiment, ranks: int) -> None:
    """Raises CompositionError with whatever does not divide evenly over ``ranks`` processes."""
    rollout, trainer = experiment.rollout, experiment.trainer
    problems = []
    if rollout.groups % ranks:
        problems.append(not_multiple("rollout.groups", rollout.groups, ranks, f"the {ranks} processes"))
    if trainer.token_budget:
        if trainer.mini_batch < ranks:
            reason = f"leaves some of the {ranks} processes without a row"
            problems.append(Problem(reason, "trainer.mini_batch", trainer.mini_batch, f"at least {ranks}"))
    elif trainer.mini_batch % (trainer.micro_batch * ranks):
        each = trainer.micro_batch * ranks
        meaning = f"micro_batch on each of {ranks} processes"
        problems.append(not_multiple("trainer.mini_batch", trainer.mini_batch, each, meaning))
    if problems:
        raise CompositionError(problems)


def _needs(experiment: Experiment) -> Iterator[Problem]:
    groups, engine = experiment.rollout.group_size, experiment.rollout.engine
    for key, named, needed in wants(experiment):
        for unknown in sorted(needed - NEEDS):
            reason = f"{named.name} declares a need {unknown!r}, which nothing provides: a mistake in its plugin"
            yield Problem(reason, key, fix=nearest(unknown, NEEDS))
        for never in sorted((needed & NEEDS) - GIVEN.get(named.kind, NEEDS)):
            kind = named.kind.replace("_", " ")
            reason = f"{named.name} declares a need {never!r}, which no {kind} is given: a mistake in its plugin"
            yield Problem(reason, key, fix=f"it can be given {', '.join(sorted(GIVEN[named.kind]))}")
        needed &= GIVEN.get(named.kind, NEEDS)
        if "values" in needed and experiment.critic is None:
            yield Problem(
                f"{named.name} needs a critic's values, and critic is null", key, fix="leave critic out of the file"
            )
        if "groups" in needed and groups == 1:
            yield Problem(
                f"{named.name} compares the episodes of a group, and rollout.group_size is 1",
                key,
                fix="set rollout.group_size to 2 or more",
            )
        if "greedy_rewards" in needed and not engine.component.greedy:
            yield Problem(
                f"{named.name} needs greedy rollouts, and the engine {engine.name} makes none",
                key,
                fix="choose another engine",
            )


def _tools(experiment: Experiment) -> Iterator[Problem]:
    environment, dialogue = experiment.environment, experiment.dialogue
    if dialogue.component.calls_tools:
        return
    # a tool set has tools, which are not asked for here: some are started for it
    held = any(named.kind == "toolset" for _, named in _named("environment", environment))
    if held or environment.component.tools:
        reason = f"calls no tools, which the environment {environment.name} offers"
        yield Problem(reason, "dialogue", dialogue.name, "set it to tool_calls")


def _warm_start(experiment: Experiment) -> Iterator[Problem]:
    warm, named = experiment.model.warm_start, experiment.environment
    if warm is None:
        return
    if warm.file is None and named.component.demonstrated is None:
        reason = f"has nothing to learn from: nobody demonstrates the environment {named.name}"
        yield Problem(reason, "model.warm_start", fix="give model.warm_start.file a .jsonl file of chats")
    if warm.file is not None and warm.noise:
        reason = "is the share of mistakes of a demonstrator, and the chats of model.warm_start.file have none"
        yield Problem(reason, "model.warm_start.noise", warm.noise, "set it to 0, or leave the file out")
    if warm.min_valid and not warm.tested:
        reason = "is never compared with anything, since model.warm_start.tested is 0"
        yield Problem(reason, "model.warm_start.min_valid", warm.min_valid, "set tested to 64, or min_valid to 0")


def _sampling(experiment: Experiment) -> Iterator[Problem]:
    """Truncated sampling: the keys exist to say why there is none."""
    rollout = experiment.rollout
    for key, value, whole in (("top_p", rollout.top_p, 1.0), ("top_k", rollout.top_k, -1)):
        if value != whole:
            yield Problem(
                "samples from a part of the distribution only, while the trainer's log-probs are those of the whole: "
                "every ratio of the two would be off by the log of the kept mass",
                f"rollout.{key}",
                value,
                f"leave it at {whole} and lower rollout.temperature, which the trainer applies too",
            )


def _training(experiment: Experiment) -> Iterator[Problem]:
    kl, critic = experiment.kl, experiment.critic
    if kl.placement == "reward" and kl.weight != "none":
        reason = (
            "is the weight pi / pi_old of a KL term in the loss, and kl.placement is reward, where no such ratio is"
        )
        yield Problem(reason, "kl.weight", kl.weight, "set kl.weight to none, or kl.placement to loss")
    if experiment.soft_advantage_reweight:
        key = "soft_advantage_reweight"
        if "groups" not in experiment.advantage.needs:
            reason = f"reweights advantages that compare a group's episodes, and {experiment.advantage.name} does not"
            yield Problem(reason, key, True, "choose a group estimator, such as those that need groups")
        if experiment.rollout.group_size == 1:
            yield Problem("compares the episodes of a group, and rollout.group_size is 1", key, True)
    for key, named in components(experiment):
        if named.kind == "advantage" and key.partition(".")[0] != "advantage" and learns(named):
            reason = f"holds {named.name}, which learns from step to step: only the run's own estimator is told of them"
            yield Problem(reason, key, fix="choose an estimator without state")
    reward = experiment.reward
    if reward.placement == "turn" and reward.normalization != "identity":
        reason = "normalises whole episodes, and reward.placement is turn, where each turn has a reward of its own"
        fix = "set it to identity, or reward.placement to episode"
        yield Problem(reason, "reward.normalization", reward.normalization, fix)
    if reward.normalization != "identity" and "greedy_rewards" in experiment.advantage.needs:
        name = experiment.advantage.name
        reason = f"normalises the rewards of episodes, which {name} compares with the raw rewards of greedy ones"
        yield Problem(reason, "reward.normalization", reward.normalization, "set it to identity")
    if "greedy_rewards" in experiment.advantage.needs and not reward.shaping.component.idle:
        name = experiment.advantage.name
        reason = f"shapes the rewards of episodes, which {name} compares with the raw rewards of greedy ones"
        yield Problem(reason, "reward.shaping", reward.shaping.name, "set it to none")
    if critic is not None and critic.policy_after > 0 and "values" not in needs(experiment):
        reason = "waits for a critic, and nothing in the experiment needs its values, so that it is never built"
        yield Problem(reason, "critic.policy_after", critic.policy_after, "set it to 0")


def _reference(experiment: Experiment) -> Iterator[Problem]:
    """What a KL controller that moves the reference needs: a reference, and one that can be moved like that."""
    named, key = experiment.kl.controller, "kl.controller"
    move, adapts = named.component.moves_reference, experiment.model.lora is not None
    if move == "never":
        return
    if "reference" not in needs(experiment):
        reason = "moves the reference, and no reference is used: kl.coef is 0, and nothing else needs one"
        yield Problem(f"{named.name} {reason}", key, fix="set kl.coef above 0, or take fixed")
    if adapts and move == "towards_policy":
        reason = (
            f"{named.name} mixes reference and policy, and with model.lora the mix of two adapters is no adapter of "
            "their rank: mixing their factors would give another model"
        )
        yield Problem(reason, key, fix="mix by a share of 1 (refresh: alpha=1), or leave model.lora out")
    if adapts and experiment.trainer.zero_stage == 3:
        reason = f"{named.name} scores with an earlier adapter, which ZeRO 3 does not let into the sharded model"
        yield Problem(reason, key, fix="set trainer.zero_stage to 2 or less, or leave model.lora out")


def _shared_critic(experiment: Experiment) -> Iterator[Problem]:
    """Of ``critic``, whatever has no meaning with or without ``critic.shared``."""
    if (critic := experiment.critic) is None:
        return
    meaningless = {
        "path": "is where a critic of its own starts from, and the shared one is a head on the policy's trunk",
        **dict.fromkeys(
            ("weight_decay", "betas", "grad_clip", "lr_schedule", "warmup_steps"),
            "is of an optimizer of its own, and a shared critic trains in the policy's: trainer has the same key",
        ),
    }
    fix = "leave it out, or set critic.shared to false"
    if not critic.shared:
        reason = "is of a critic that shares the policy's trunk, and critic.shared is false"
        meaningless, fix = dict.fromkeys(("coef", "detach"), reason), "leave it out, or set critic.shared to true"
    default = Critic()
    for name, reason in meaningless.items():
        if (value := getattr(critic, name)) != getattr(default, name):
            yield Problem(reason, f"critic.{name}", value, fix)


def _own_checks(experiment: Experiment) -> Iterator[Problem]:
    for key, named in components(experiment):
        try:
            reasons = [str(reason) for reason in named.component.check(experiment)]
        except MissingExtraError:
            raise
        except Exception as error:
            yield failure(named.described, "check", error).under(key)
        else:
            yield from (Problem(f"{named.name}: {reason}", key) for reason in reasons)


def _broken(experiment: Experiment) -> list[Problem]:
    """The components that fail when they are asked what they need."""
    problems = []
    for key, named in components(experiment):
        try:
            needed = frozenset(named.component.needs)
            if odd := [need for need in needed if not isinstance(need, str)]:
                raise TypeError(f"{odd[0]!r} is not the name of a need")
            if named.kind == "environment":
                _ = named.component.reward_names
                _ = {name: float(weight) for name, weight in named.component.reward_weights.items()}
                _ = named.component.demonstrated
            if named.kind in ("rollout_filter", "episode_filter"):
                bool(named.component.keeps_all)
            if named.kind in ("reward_shaping", "entropy_controller"):
                bool(named.component.idle)
            if named.kind == "kl_controller" and (move := named.component.moves_reference) not in MOVES:
                raise TypeError(f"moves_reference is {move!r}, which is none of {', '.join(MOVES)}")
        except Exception as error:
            problems.append(failure(named.described, "needs", error).under(key))
    return problems
