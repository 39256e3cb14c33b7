"""A plugin with one typical mistake in each component; a run must end with an error that names it."""

import os

import attrs
import torch
from uncollapse import hookimpl
from uncollapse.core import components
from uncollapse.core.components import (
    AdvantageEstimatorSession,
    Advantages,
    Answer,
    Completion,
    EntropyControllerSession,
    KlControllerSession,
    RolloutEngineSession,
    Step,
)
from uncollapse.core.kinds import KINDS
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.engine_hf import HfEngine


def component(base=object, **methods):
    """A component class with these methods."""
    return attrs.frozen(type("Mistaken", (base,), {"__annotations__": {}, **methods}))


class Tasks(components.TaskSamplerSession):
    """Tasks in their order; ``change`` says what is drawn instead."""

    def __init__(self, change=list, state=dict):
        self.change, self.state, self.next = change, state, 0

    def draw(self, count):
        self.next += count
        return self.change(range(self.next - count, self.next))

    def state_dict(self):
        return self.state()

    def load_state_dict(self, state):
        pass


def tasks(*given, session=Tasks):
    return component(start=lambda self, first, environment, seed: session(*given))


class Batches(components.BatchSamplerSession):
    """New groups; ``collects`` says what is made of them."""

    def __init__(self, collects=list, measured=None):
        self.collects, self.measured = collects, measured or {}

    def collect(self, pool, step):
        return self.collects(pool.sample(4))

    def metrics(self):
        return self.measured

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def batches(*given, collect=Batches.collect):
    session = type("Session", (Batches,), {"collect": collect})
    return component(start=lambda self, groups, group_size: session(*given))


def ratio(inputs):
    return -inputs.advantages * (inputs.logprobs - inputs.old_logprobs).exp()


def ones_off_the_mask(self, batch):
    return Advantages(torch.ones_like(batch.rewards), torch.zeros_like(batch.rewards))


def advantages_of(value):
    def compute(self, batch):
        return value(batch.rewards, batch.mask)

    return {"needs": frozenset(), "compute": compute}


class Learner(AdvantageEstimatorSession):
    """A session that is right but for what it keeps and what it measures."""

    def __init__(self, state=None, measured=None):
        self.state, self.measured = state or {}, measured or {}

    def compute(self, batch):
        return Advantages(batch.rewards, batch.rewards)

    def metrics(self):
        return self.measured

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        pass


def learner(make):
    return component(needs=frozenset(), start=lambda self: make(), compute=lambda self, batch: make().compute(batch))


class Controller(KlControllerSession):
    """A session whose coefficient is no number after the first update, or that lacks what a checkpoint needs."""

    coef = 0.1

    def update(self, kl, episodes):
        self.coef = float("nan")

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Stateless(KlControllerSession):
    coef = 0.1

    def update(self, kl, episodes):
        pass


class Refreshing(Stateless):
    """A session that gives one share of the policy in every step."""

    def __init__(self, share):
        self.share = share

    def refresh(self, step):
        return self.share

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def refreshing(share, declared):
    """A controller that declares how it moves the reference, and gives ``share``."""
    return component(start=lambda self, coef: Refreshing(share), moves_reference=declared)


class EntropySession(EntropyControllerSession):
    """A session whose coefficient is what ``move`` makes of the entropy."""

    def __init__(self, move):
        self.coef, self.move = 0.1, move

    def update(self, entropy, step):
        self.coef = self.move(entropy)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def steered(move):
    return component(needs=frozenset({"entropies"}), start=lambda self, coef, steps: EntropySession(move))


class Env(components.Env):
    """One question; ``answer`` says what a step gives."""

    def __init__(self, answer, observation="Which arm?"):
        self.answer, self.observation = answer, observation

    def initial_observation(self):
        return self.observation

    def step(self, action):
        return self.answer()


def world(answer=lambda: Step("ok", 1.0, done=True), actions=("Up", "Down"), observe=lambda member: "Which?"):
    return component(
        instruction="Answer.", actions=actions, make=lambda self, seed, member=0: Env(answer, observe(member))
    )


class Engine(RolloutEngineSession):
    """The real engine, whose completions are changed."""

    def __init__(self, session, change):
        self.session, self.change = session, change

    def sync(self, weights):
        self.session.sync(weights)

    def close(self):
        self.session.close()

    def generate(self, prompts, sampling, seed):
        return self.change(self.session.generate(prompts, sampling, seed))


def engine(change):
    def start(self, *args, **options):
        return Engine(HfEngine.start(self, *args, **options), change)

    return component(HfEngine, start=start)


def each(tokens=lambda tokens: tokens, logprobs=lambda logprobs: logprobs):
    def change(completions):
        return [Completion(tokens(c.tokens), logprobs(c.logprobs), c.stop_reason) for c in completions]

    return engine(change)


def leave(*args, **options):
    raise SystemExit(5)


class Own(BaseException):
    """Neither an Exception nor one of Python's own, and without a text."""

    def __str__(self):
        raise ValueError


def raise_own(*args, **options):
    raise Own


def by_numpy(self, rollouts):
    rollouts.rewards.numpy()[:] = 0
    return torch.ones(rollouts.group_ids_P.shape)


def prepares(value):
    """A loss that is right, and prepares something that is not."""
    return component(__call__=lambda self, inputs: (ratio(inputs), {}), prepare=lambda self, batch: value(batch))


MISTAKES = {
    "rollout_filter": {
        "gives_a_list": component(select=lambda self, scores: [True] * len(scores)),
        "gives_places": component(select=lambda self, scores: torch.arange(len(scores))),
        "gives_one_too_few": component(select=lambda self, scores: torch.ones(len(scores) - 1, dtype=torch.bool)),
    },
    "episode_filter": {
        "gives_numbers": component(select=lambda self, rollouts: rollouts.raw_rewards_E),
        "gives_groups": component(select=lambda self, rollouts: torch.ones(len(rollouts.group_ids_P)) > 0),
        "changes_rewards": component(select=lambda self, rollouts: rollouts.raw_rewards_E.add_(1.0) > 0),
    },
    "reward_shaping": {
        "is_nan": component(shape=lambda self, inputs: inputs.rewards_E / 0 * 0),
        "per_group": component(shape=lambda self, inputs: inputs.rewards_E[:1]),
        "counts": component(shape=lambda self, inputs: inputs.lengths_E),
        "changes_rewards": component(shape=lambda self, inputs: inputs.rewards_E.mul_(0.5)),
        "is_none": component(shape=lambda self, inputs: None),
    },
    "entropy_controller": {
        "becomes_infinite": steered(lambda entropy: float("inf")),
        "becomes_a_text": steered(lambda entropy: "much"),
        "divides_by_zero": steered(lambda entropy: 1 / 0),
        "has_no_session": component(start=lambda self, coef, steps: coef),
    },
    "group_metric": {
        "scores_rows": component(needs=frozenset(), score=lambda self, rollouts: rollouts.rewards.sum(1)),
        "scores_nan": component(needs=frozenset(), score=lambda self, r: torch.full(r.group_ids_P.shape, torch.nan)),
        "divides_by_zero": component(needs=frozenset(), score=lambda self, rollouts: 1 / 0),
        "changes_rewards": component(
            needs=frozenset(), score=lambda self, r: r.rewards.mul_(0.5).sum() * r.group_ids_P
        ),
        "changes_by_numpy": component(needs=frozenset(), score=by_numpy),
    },
    "kl": {
        "is_nan": component(__call__=lambda self, logprobs, ref: (logprobs - ref) * torch.nan),
        "changes_the_reference": component(__call__=lambda self, logprobs, ref: logprobs - ref.add_(1.0)),
        "is_summed": component(__call__=lambda self, logprobs, ref: (logprobs - ref).sum(1)),
    },
    "kl_controller": {
        "becomes_nan": component(start=lambda self, coef: Controller()),
        "has_no_state": component(start=lambda self, coef: Stateless()),
        "moves_by_two": refreshing(2, "towards_policy"),
        "moves_by_nothing": refreshing(0.0, "towards_policy"),
        "moves_if_true": refreshing(True, "to_policy"),
        "moves_undeclared": refreshing(1.0, "never"),
        "moves_partly": refreshing(0.5, "to_policy"),
    },
    "advantage": {
        "per_row": component(**advantages_of(lambda r, m: Advantages(r.sum(1), r.sum(1)))),
        "off_the_mask": component(needs=frozenset(), compute=ones_off_the_mask),
        "nan": component(**advantages_of(lambda r, m: Advantages(r * torch.nan, r))),
        "a_tensor": component(**advantages_of(lambda r, m: r)),
        "leaves": component(needs=frozenset(), compute=leave),
        "raises_its_own": component(needs=frozenset(), compute=raise_own),
        "has_a_gradient": component(**advantages_of(lambda r, m: Advantages(r.clone().requires_grad_(), r))),
        "turns_gradients_off": component(
            **advantages_of(lambda r, m: (torch.set_grad_enabled(False), Advantages(r, r))[1])
        ),
        "has_no_session": learner(dict),
        "keeps_a_set": learner(lambda: Learner(state={"seen": {1}})),
        "measures_a_text": learner(lambda: Learner(measured={"baseline": "high"})),
    },
    "policy_loss": {
        "is_a_mean": component(__call__=lambda self, inputs: (ratio(inputs)[inputs.mask].mean(), {})),
        "is_alone": component(__call__=lambda self, inputs: ratio(inputs)),
        "nan_off_the_mask": component(
            __call__=lambda self, inputs: (ratio(inputs).masked_fill(~inputs.mask, torch.nan), {})
        ),
        "detached": component(__call__=lambda self, inputs: (ratio(inputs).detach(), {})),
        "metric_is_a_mean": component(__call__=lambda self, inputs: (ratio(inputs), {"clipped": 0.5})),
        "prepares_a_tensor": prepares(lambda batch: batch.mask),
        "prepares_numbers": prepares(lambda batch: {"share": 0.5}),
        "prepares_one_row": prepares(lambda batch: {"weights": torch.ones(batch.mask.shape[1])}),
        "prepares_nan": prepares(lambda batch: {"weights": torch.full(batch.mask.shape, torch.nan)}),
        "metric_is_a_text": component(__call__=lambda self, inputs: (ratio(inputs), {"clipped": ("many", 1)})),
        "metric_is_a_row": component(
            __call__=lambda self, inputs: (ratio(inputs), {"clipped": (inputs.logprobs.detach().sum(1), 1)})
        ),
        "changes_advantages": component(
            __call__=lambda self, inputs: (ratio(inputs) * inputs.advantages.mul_(2).abs(), {})
        ),
    },
    "sampler_correction": {
        "is_alone": component(correction=lambda self, old, sampler, mask: torch.ones_like(old)),
        "negative": component(correction=lambda self, old, sampler, mask: (-torch.ones_like(old), {})),
        "metric_is_a_text": component(correction=lambda self, old, s, m: (torch.ones_like(old), {"ess": "high"})),
        "changes_log_probs": component(correction=lambda self, old, sampler, mask: (old.zero_() + 1, {})),
        "per_row": component(correction=lambda self, old, sampler, mask: (torch.ones(len(old)), {})),
    },
    "task_sampler": {
        "gives_a_range_of_texts": tasks(lambda seeds: list(map(str, seeds))),
        "gives_a_generator": tasks(iter),
        "gives_one_too_few": tasks(lambda seeds: list(seeds)[1:]),
        "gives_negative_seeds": tasks(lambda seeds: [-1 - seed for seed in seeds]),
        "gives_large_seeds": tasks(lambda seeds: [2**63 + seed for seed in seeds]),
        "repeats_a_seed": tasks(lambda seeds: [seeds[0]] * len(seeds)),
        "breaks": tasks(lambda seeds: {}[seeds[0]]),
        "keeps_a_set": tasks(list, lambda: {"seen": {1, 2}}),
        "keeps_nan": tasks(list, lambda: {"best": float("nan")}),
        "has_no_session": tasks(session=dict),
    },
    "batch_sampler": {
        "gives_nothing": batches(lambda groups: []),
        "gives_episodes": batches(lambda groups: [episode for group in groups for episode in group.episodes]),
        "gives_a_group_twice": batches(lambda groups: groups + groups[:1]),
        "gives_none": batches(lambda groups: None),
        "changes_rewards": batches(lambda groups: [attrs.evolve(group, rewards=(9.0, 9.0)) for group in groups]),
        "is_ahead": batches(lambda groups: [attrs.evolve(group, step=group.step + 1) for group in groups]),
        "asks_for_a_share": batches(collect=lambda self, pool, step: pool.sample(0.5)),
        "measures_nan": batches(list, {"kept": float("nan")}),
        "takes_a_name": batches(list, {"filter_kept_count": 1.0}),
        "breaks": batches(lambda groups: groups[99]),
    },
    "loss_aggregation": {
        "per_row": component(weights=lambda self, mask, longest: mask.sum(1).float()),
        "off_the_mask": component(weights=lambda self, mask, longest: torch.ones(mask.shape)),
        "negative": component(weights=lambda self, mask, longest: -mask.float()),
        "in_double": component(weights=lambda self, mask, longest: mask.double()),
        "infinite": component(weights=lambda self, mask, longest: mask / torch.zeros(())),
    },
    "verifier": {
        "says_a_word": component(verify=lambda self, answer, golds: "right"),
        "gives_percent": component(verify=lambda self, answer, golds: 80),
        "is_nan": component(verify=lambda self, answer, golds: float("nan")),
        "breaks": component(verify=lambda self, answer, golds: golds["first"]),
    },
    "environment": {
        "actions_are_a_text": world(actions="Up"),
        "gives_a_pair": world(answer=lambda: ("ok", 1.0)),
        "reward_is_nan": world(answer=lambda: Step("ok", float("nan"), done=True)),
        "gives_an_unnamed_reward": world(answer=lambda: Step("ok", rewards={"right": 1.0}, done=True)),
        "observes_a_number": world(observe=lambda member: 7),
        "members_differ": world(observe=lambda member: f"You are member {member}."),
        "reward_is_a_tensor": world(answer=lambda: Step("ok", torch.tensor(1.0), done=True)),
        "changes_the_directory": world(answer=lambda: os.chdir("/") or Step("ok", 1.0, done=True)),
        "breaks": world(answer=lambda: {}["key"]),
    },
    "dialogue": {
        "system_is_bytes": component(ThinkAnswer, system=lambda self, setting: b"Answer."),
        "reply_is_elsewhere": component(
            ThinkAnswer, reply=lambda self, s: "Reply as you like.", system=lambda self, s: ThinkAnswer().system(s)
        ),
        "asks_nothing": component(ThinkAnswer, ask=lambda self, *given: ""),
        "outcome_is_a_number": component(ThinkAnswer, outcome=lambda self, reward, answer, setting: reward),
        "parses_nothing": component(ThinkAnswer, parse=lambda self, response, setting: None),
        "parses_too_many": component(ThinkAnswer, parse=lambda self, *given: Answer("", ("a",) * 5, 5)),
        "parses_a_list": component(ThinkAnswer, parse=lambda self, *given: Answer("", ["a"], 1)),
        "tags_are_a_text": component(ThinkAnswer, tags="<think>"),
        "changes_the_directory": component(ThinkAnswer, parse=lambda self, *given: os.chdir("/") or Answer()),
        "breaks": component(ThinkAnswer, parse=lambda self, response, setting: response["text"]),
    },
    "rollout_engine": {
        "fewer_logprobs": each(logprobs=lambda logprobs: logprobs[:1]),
        "positive_logprobs": each(logprobs=lambda logprobs: tuple(-value + 0.1 for value in logprobs)),
        "nan_logprobs": each(logprobs=lambda logprobs: (float("nan"),) * len(logprobs)),
        "too_long": each(lambda tokens: tokens * 20, lambda logprobs: logprobs * 20),
        "empty": each(lambda tokens: (), lambda logprobs: ()),
        "one_completion": engine(lambda completions: completions[:1]),
    },
}
"""Kind -> name -> class."""


def _register(kind):
    def registrar(register):
        for name, cls in MISTAKES[kind].items():
            base = getattr(components, KINDS[kind].contract)
            own = cls if issubclass(cls, base) else attrs.frozen(type("Mistaken", (cls, base), {}))
            register(f"{kind}_{name}", own, summary="a mistake")

    return registrar


register_rollout_filters = hookimpl(_register("rollout_filter"), specname="register_rollout_filters")
register_episode_filters = hookimpl(_register("episode_filter"), specname="register_episode_filters")
register_shapings = hookimpl(_register("reward_shaping"), specname="register_reward_shapings")
register_entropies = hookimpl(_register("entropy_controller"), specname="register_entropy_controllers")
register_group_metrics = hookimpl(_register("group_metric"), specname="register_group_metrics")
register_kl_variants = hookimpl(_register("kl"), specname="register_kl_variants")
register_kl_controllers = hookimpl(_register("kl_controller"), specname="register_kl_controllers")
register_estimators = hookimpl(_register("advantage"), specname="register_advantage_estimators")
register_policy_losses = hookimpl(_register("policy_loss"), specname="register_policy_losses")
register_corrections = hookimpl(_register("sampler_correction"), specname="register_sampler_corrections")
register_tasks = hookimpl(_register("task_sampler"), specname="register_task_samplers")
register_batches = hookimpl(_register("batch_sampler"), specname="register_batch_samplers")
register_aggregations = hookimpl(_register("loss_aggregation"), specname="register_loss_aggregations")
register_verifiers = hookimpl(_register("verifier"), specname="register_verifiers")
register_worlds = hookimpl(_register("environment"), specname="register_environments")
register_dialogues = hookimpl(_register("dialogue"), specname="register_dialogues")
register_engines = hookimpl(_register("rollout_engine"), specname="register_rollout_engines")
