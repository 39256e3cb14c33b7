"""Mistakes whose results have the right shape; what is wrong with them shows only when a law is tried."""

import random
import re
import signal
from types import SimpleNamespace

import attrs
import torch
from uncollapse import hookimpl
from uncollapse.core.components import (
    AdvantageEstimator,
    AdvantageEstimatorSession,
    Advantages,
    Answer,
    BatchSampler,
    BatchSamplerSession,
    CollapseDetector,
    CollapseSession,
    EntropyController,
    EntropyControllerSession,
    Env,
    Environment,
    EpisodeFilter,
    GroupMetric,
    KlController,
    KlControllerSession,
    KlVariant,
    LossAggregation,
    LossOutput,
    PolicyLoss,
    RewardShaping,
    RolloutFilter,
    SamplerCorrection,
    Step,
    TaskSampler,
    TaskSamplerSession,
    TokenHead,
    TokenScores,
    Toolset,
    VarianceEstimator,
    Verdict,
    Verifier,
)
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.dialogue.tool_calls import ToolCalls


@attrs.frozen
class FirstHalf(RolloutFilter):
    def select(self, scores_P):
        if not scores_P.isfinite().all():
            raise ValueError("NaN")
        return torch.arange(len(scores_P)) < max(1, len(scores_P) // 2)


@attrs.frozen
class TakesNan(RolloutFilter):
    def select(self, scores_P):
        return scores_P >= scores_P.nanmean()


@attrs.frozen
class FirstEpisodes(EpisodeFilter):
    """Keeps episodes for their place in the batch."""

    def select(self, rollouts):
        return torch.arange(len(rollouts.raw_rewards_E)) < 3


@attrs.frozen
class SaysItKeepsAll(EpisodeFilter):
    keeps_all = True

    def select(self, rollouts):
        return rollouts.success_E


@attrs.frozen
class AboveTheOneBefore(RewardShaping):
    """Compares each episode with its neighbour, whosever group that is in."""

    def shape(self, inputs):
        return inputs.rewards_E - inputs.rewards_E.roll(1)


@attrs.frozen
class SaysItIsIdle(RewardShaping):
    idle = True

    def shape(self, inputs):
        return inputs.rewards_E - 0.01 * inputs.lengths_E


CALLS = []


@attrs.frozen
class CountsCalls(RewardShaping):
    """Remembers, outside of any checkpoint, how often it was asked."""

    def shape(self, inputs):
        CALLS.append(1)
        return inputs.rewards_E / len(CALLS)


@attrs.frozen
class ReadsTheEntropy(EntropyController):
    """Does not say that it needs entropies."""

    def start(self, coef, steps):
        return FollowsSession(coef)


class FollowsSession(EntropyControllerSession):
    def __init__(self, coef):
        self.coef = coef

    def update(self, entropy, step):
        self.coef = 0.9 * self.coef + 0.001 * entropy

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@attrs.frozen
class ForgetsItsCoefficient(EntropyController):
    needs = frozenset({"entropies"})

    def start(self, coef, steps):
        return FollowsSession(coef)


OF_ALL_RUNS = FollowsSession(0.1)


@attrs.frozen
class ForAllRuns(EntropyController):
    """Starts the same session for each run."""

    needs = frozenset({"entropies"})

    def start(self, coef, steps):
        return OF_ALL_RUNS


@attrs.frozen
class NeedsValues(EntropyController):
    needs = frozenset({"values"})

    def start(self, coef, steps):
        return FollowsSession(coef)


@attrs.frozen
class ByPlace(GroupMetric):
    """Reads rewards in the order of episodes, not of groups."""

    needs = frozenset()

    def score(self, rollouts):
        return rollouts.raw_rewards_E[: len(rollouts.group_ids_P)].cumsum(0)


@attrs.frozen
class NotZeroWhereEqual(KlVariant):
    def __call__(self, logprobs, ref_logprobs):
        return (logprobs - ref_logprobs) + 0.1


@attrs.frozen
class Constant(KlVariant):
    def __call__(self, logprobs, ref_logprobs):
        return (logprobs - ref_logprobs).detach()


@attrs.frozen
class Forgetful(KlController):
    """A controller whose session forgets its coefficient."""

    def start(self, coef):
        return ForgetfulSession(coef, 1.5)


class ForgetfulSession(KlControllerSession):
    def __init__(self, coef, factor):
        self.coef, self.factor = coef, factor

    def update(self, kl, episodes):
        self.coef *= self.factor

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


SHARED = ForgetfulSession(0.1, 1.0)


class Moving(KlControllerSession):
    """Moves the reference where ``due`` says so; it does not keep how often it was asked."""

    coef = 0.1

    def __init__(self, due):
        self.due, self.asked = due, 0

    def update(self, kl, episodes):
        pass

    def refresh(self, step):
        self.asked += 1
        return 1.0 if self.due(self.asked) else None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def moving(due):
    """A controller that moves the reference where ``due(number of times asked)`` says so."""
    start = lambda self, coef: Moving(due)  # noqa: E731
    return attrs.frozen(type("Moves", (KlController,), {"moves_reference": "to_policy", "start": start}))


@attrs.frozen
class OneForAll(KlController):
    """A controller whose runs share one session."""

    def start(self, coef):
        return SHARED


@attrs.frozen
class PairsOfNeighbours(AdvantageEstimator):
    """Credit that depends on which row comes next."""

    needs = frozenset()

    def compute(self, batch):
        credit = batch.rewards.sum(1) - batch.rewards.sum(1).roll(1)
        value = torch.where(batch.mask, credit[:, None], 0.0)
        return Advantages(value, value)


@attrs.frozen
class MeanOverPadding(AdvantageEstimator):
    needs = frozenset()

    def compute(self, batch):
        value = torch.where(batch.mask, batch.rewards.sum(1, keepdim=True) - batch.rewards.mean(1, keepdim=True), 0.0)
        return Advantages(value, value)


class Average(AdvantageEstimatorSession):
    """Rewards less the average of those of all steps before; a subclass makes one mistake."""

    def __init__(self):
        self.steps, self.total = 0, 0.0

    def baseline(self):
        return self.total / max(1, self.steps)

    def learn(self, rewards_B):
        self.total += float(rewards_B.mean())

    def compute(self, batch):
        rewards_B = batch.rewards.sum(1)
        credit = torch.where(batch.mask, rewards_B[:, None] - self.baseline(), 0.0)
        self.steps += 1
        self.learn(rewards_B)
        return Advantages(credit, credit)

    def state_dict(self):
        return {"steps": self.steps, "total": self.total}

    def load_state_dict(self, state):
        self.steps, self.total = state["steps"], state["total"]


class ForgetfulAverage(Average):
    def load_state_dict(self, state):
        self.steps = state["steps"]


class LastRow(Average):
    """Learns from the row that happens to stand last."""

    def learn(self, rewards_B):
        self.total += float(rewards_B[-1])


class CommonAverage(Average):
    """Sessions of all runs add to one sum."""

    common = [0.0]

    def baseline(self):
        return self.common[0]

    def learn(self, rewards_B):
        self.common[0] += float(rewards_B.mean())


class NoisyAverage(Average):
    """Adds noise to what it learns, other noise on each rank."""

    def learn(self, rewards_B):
        self.total += float(rewards_B.mean() + 0.1 * torch.randn(()))


def learning(session, compute=None):
    """An estimator with such a session; ``compute`` is what it computes without one."""

    @attrs.frozen
    class Learns(AdvantageEstimator):
        def start(self):
            return session()

        def compute(self, batch):
            return (compute or self.start().compute)(batch)

    return Learns


def raw_rewards(batch):
    credit = torch.where(batch.mask, batch.rewards.sum(1, keepdim=True) + 1.0, 0.0)
    return Advantages(credit, credit)


SHARED_AVERAGE = Average()


@attrs.frozen
class RowRatio(PolicyLoss):
    """A ratio of the row, as in GSPO, that does not say so."""

    def __call__(self, inputs):
        logprobs = torch.where(inputs.mask, inputs.logprobs, 0.0)
        moved = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
        row = moved.detach().sum(1, keepdim=True) / inputs.mask.sum(1, keepdim=True).clamp(min=1)
        ratio = (logprobs - logprobs.detach() + row).exp()
        return LossOutput(torch.where(inputs.mask, -inputs.advantages * ratio, 0.0), {})


@attrs.frozen
class SpreadsGradients(PolicyLoss):
    """A loss of the row at each of its tokens, that does not say so."""

    ratio_of = "rows"

    def __call__(self, inputs):
        moved = torch.where(inputs.mask, inputs.logprobs - inputs.old_logprobs, 0.0)
        advantages = torch.where(inputs.mask, inputs.advantages, 0.0).sum(1, keepdim=True)
        loss = -advantages * moved.mean(1, keepdim=True).exp()
        return LossOutput(torch.where(inputs.mask, loss, 0.0), {})


@attrs.frozen
class CouplesRows(PolicyLoss):
    """Ranks the tokens of its own micro-batch."""

    def __call__(self, inputs):
        ratio = (inputs.logprobs - inputs.old_logprobs).exp()
        chosen = inputs.mask & (inputs.advantages >= inputs.advantages[inputs.mask].median())
        return LossOutput(torch.where(chosen, -inputs.advantages * ratio, 0.0), {})


@attrs.frozen
class MetricOfMicroBatch(PolicyLoss):
    def __call__(self, inputs):
        loss = torch.where(inputs.mask, -inputs.advantages * inputs.logprobs, 0.0)
        return LossOutput(loss, {"largest": (inputs.advantages.abs().max(), torch.tensor(1.0))})


@attrs.frozen
class Unmasked(PolicyLoss):
    def __call__(self, inputs):
        return LossOutput(-(inputs.advantages + 1) * inputs.logprobs, {})


@attrs.frozen
class SpreadsNan(PolicyLoss):
    """Masks by multiplying, so that NaN off the mask stays NaN."""

    def __call__(self, inputs):
        row = (inputs.logprobs * inputs.mask).sum(1, keepdim=True)
        return LossOutput(torch.where(inputs.mask, -inputs.advantages * row, 0.0), {})


@attrs.frozen
class ByEntropy(PolicyLoss):
    """Reads entropies in prepare, and does not say that it needs them."""

    def prepare(self, batch):
        return {"weights": batch.entropies / batch.entropies.max()}

    def __call__(self, inputs):
        weighed = inputs.prepared["weights"] * inputs.advantages * inputs.logprobs
        return LossOutput(torch.where(inputs.mask, -weighed, 0.0), {})


@attrs.frozen
class AgainstTheReference(PolicyLoss):
    def __call__(self, inputs):
        distance = torch.where(inputs.mask, inputs.logprobs - inputs.ref_logprobs, 0.0)
        return LossOutput(distance**2, {})


@attrs.frozen
class MeanOfTheBatch(SamplerCorrection):
    def correction(self, old_logprobs, sampler_logprobs, mask):
        weights = torch.where(mask, (old_logprobs - sampler_logprobs).exp(), 0.0)
        return weights / weights.sum() * mask.sum(), {}


@attrs.frozen
class SaysItWeighsRows(SamplerCorrection):
    weighs = "rows"

    def correction(self, old_logprobs, sampler_logprobs, mask):
        return torch.where(mask, (old_logprobs - sampler_logprobs).exp(), 0.0), {}


@attrs.frozen
class OffTheMask(SamplerCorrection):
    def correction(self, old_logprobs, sampler_logprobs, mask):
        return torch.ones_like(old_logprobs), {}


@attrs.frozen
class CountsPadding(LossAggregation):
    def weights(self, mask_B_T, max_length):
        return mask_B_T / mask_B_T.numel() if mask_B_T.numel() else mask_B_T.float()


@attrs.frozen
class FirstRowsMost(LossAggregation):
    """Weighs rows by where they stand."""

    def weights(self, mask_B_T, max_length):
        places_B = torch.arange(len(mask_B_T), 0, -1)[:, None]
        return mask_B_T * places_B / (mask_B_T * places_B).sum().clamp(min=1)


@attrs.frozen
class DividesByNothing(LossAggregation):
    """A mean over rows of means, without a word about rows that have no token."""

    def weights(self, mask_B_T, max_length):
        return mask_B_T / mask_B_T.sum(1, keepdim=True) / len(mask_B_T)


@attrs.frozen
class FirstOnly(Verifier):
    """A verifier that knows one right answer."""

    def verify(self, answer, golds):
        return answer == golds[0]


@attrs.frozen
class ByChance(Verifier):
    def verify(self, answer, golds):
        return random.random()


@attrs.frozen
class GradesInPercent(Verifier):
    """A verifier that looks at the question, too."""

    def verify(self, answer, golds):
        return answer in golds

    def grade(self, question, answer, golds):
        return 100.0 * (answer in golds)


@attrs.frozen
class Talks(Verifier):
    def verify(self, answer, golds):
        return "right" if answer in golds else "wrong"


def without_types(number):
    """Do something.

    Args:
        number: A number.
    """
    return str(number)


def doubled(number: int) -> str:
    """Double a number.

    Args:
        number: A number.
    """
    return str(2 * number)


@attrs.frozen
class WithoutTypes(Toolset):
    """Offers a tool whose parameter has no type."""

    tools = (without_types,)


@attrs.frozen
class OffersNothing(Toolset):
    tools = ()


@attrs.frozen
class OneSession(Toolset):
    """Gives what is no session."""

    tools = (doubled,)

    def start(self, seed, member):
        return {"double": doubled}


class Session(CollapseSession):
    def __init__(self, measured=None, verdict=None):
        self.seen, self.measured, self.verdict = 0, measured or {}, verdict

    def measure(self, rollouts, scorer):
        return self.measured

    def judge(self, step, metrics):
        self.seen += 1
        return self.verdict(self, step, metrics) if self.verdict else None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def detector(**options):
    return attrs.frozen(
        type(
            "Detector", (CollapseDetector,), {"__annotations__": {}, "start": lambda self, context: Session(**options)}
        )
    )


@attrs.frozen
class WithoutState(CollapseDetector):
    def start(self, context):
        return SimpleNamespace(measure=lambda rollouts, scorer: {}, judge=lambda step, metrics: None)


def after_three(session, step, metrics):
    return Verdict("forgets", step, "three steps") if session.seen >= 3 else None


class Tasks(TaskSamplerSession):
    """Sequential tasks."""

    def __init__(self, first):
        self.next = first

    def draw(self, count):
        self.next += count
        return list(range(self.next - count, self.next))

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class DiceTasks(Tasks):
    """Draws by the random numbers of the process."""

    def draw(self, count):
        return random.sample(range(10**9), count)


class OneCounterTasks(Tasks):
    """Counts for all runs of the process."""

    counted = 0

    def draw(self, count):
        OneCounterTasks.counted += count
        return list(range(OneCounterTasks.counted - count, OneCounterTasks.counted))


class ForgetfulTasks(Tasks):
    def load_state_dict(self, state):
        pass


class NumberedTasks(Tasks):
    """Keeps rewards by seed, which a checkpoint would make texts."""

    def __init__(self, first):
        super().__init__(first)
        self.rewards = {}

    def learn(self, groups):
        self.rewards |= {group.seed: sum(group.rewards) for group in groups}

    def state_dict(self):
        return {"next": self.next, "rewards": self.rewards}


@attrs.frozen
class WrappedTasks(TaskSampler):
    """Repeats a task in a step where there are few of them."""

    def start(self, first, environment, seed):
        session, draw = Tasks(first), Tasks.draw
        session.draw = lambda count: [task % (environment.tasks or 10**9) for task in draw(session, count)]
        return session


def tasks(session, foreseen=None):
    methods = {"start": lambda self, first, environment, seed: session(first)}
    if foreseen:
        methods["foreseen"] = foreseen
    return attrs.frozen(type("Sampler", (TaskSampler,), {"__annotations__": {}, **methods}))


class Batches(BatchSamplerSession):
    """Keeps the last group of a step for the next one."""

    def __init__(self, groups):
        self.groups, self.left = groups, []

    def collect(self, pool, step):
        groups = self.left + pool.sample(self.groups)
        self.left = groups[self.groups :]
        return groups[: self.groups]

    def state_dict(self):
        return {"left": self.left}

    def load_state_dict(self, state):
        self.left = state["left"]


class ForgetfulBatches(Batches):
    """Forgets the groups that are left over."""

    def collect(self, pool, step):
        self.left = self.left or pool.sample(1)
        return super().collect(pool, step)

    def state_dict(self):
        return {"left": []}


class DiceBatches(Batches):
    def collect(self, pool, step):
        groups = pool.sample(2 * self.groups)
        return random.sample(groups, self.groups)


class ForeverBatches(Batches):
    """Gives a group of the step before once more beside its new self."""

    def collect(self, pool, step):
        groups = self.left + pool.sample(self.groups)
        self.left = groups[:1]
        return [*groups, *groups[:1]]


def batches(session, **methods):
    methods["start"] = lambda self, groups, group_size: session(groups)
    return attrs.frozen(type("Sampler", (BatchSampler,), {"__annotations__": {}, **methods}))


@attrs.frozen
class Dice(Environment):
    """An environment whose rewards are drawn from the process's own random numbers."""

    instruction = "Roll."
    actions = ("Roll",)

    def make(self, seed, member=0):
        return Episode(f"die {seed}", lambda action: Step("rolled", random.random(), done=True))


class Episode(Env):
    def __init__(self, observation, answer):
        self.observation, self.answer = observation, answer

    def initial_observation(self):
        return self.observation

    def step(self, action):
        return self.answer(action)


@attrs.frozen
class Unsayable(Environment):
    """An environment with an action that is two in an answer."""

    instruction = "Walk."
    actions = ("Up", "Up || Down")

    def make(self, seed, member=0):
        return Episode(f"at {seed}", lambda action: Step("there", 0.0, done=True))


@attrs.frozen
class OneBoard(Environment):
    """An environment whose episodes move on one board."""

    instruction = "Walk."
    actions = ("Up", "Down")
    board: dict = attrs.field(factory=dict)

    def make(self, seed, member=0):
        self.board["at"] = seed

        def step(action):
            self.board["at"] += 1 if action == "Up" else 2
            return Step(f"at {self.board['at']}", 0.0)

        return Episode(f"at {seed}", step)


@attrs.frozen
class SetsAlarms(Environment):
    """An environment that sets an alarm, which only the main thread can, and does not say that it needs it."""

    instruction = "Walk."
    actions = ("Up",)

    def make(self, seed, member=0):
        def step(action):
            signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
            return Step("there", 0.0, done=True)

        return Episode(f"at {seed}", step)


@attrs.frozen
class DemonstratesAnother(Environment):
    """An environment whose demonstrator shows an action that it does not have."""

    instruction = "Walk."
    actions = ("Up",)

    @property
    def demonstrated(self):
        return self

    def make(self, seed, member=0):
        episode = Episode(f"at {seed}", lambda action: Step("there", 0.0, done=True))
        episode.demonstrate = lambda most, noise, rng: ("I walk", ("Left",))
        return episode


def rewarding(names, **given):
    """An environment that declares these names of rewards, and gives something else."""

    def make(self, seed, member=0):
        return Episode(f"at {seed}", lambda action: Step("there", done=True, **given))

    methods = {"instruction": "Walk.", "actions": ("Up",), "reward_names": names, "make": make}
    return attrs.frozen(type("Rewarding", (Environment,), {"__annotations__": {}, **methods}))


@attrs.frozen
class RemembersTurns(ThinkAnswer):
    """A dialogue that says how often it was asked, over all episodes."""

    asked: list = attrs.field(factory=list)

    def ask(self, number, observation, actions_left, setting):
        self.asked.append(number)
        return f"{observation} ({len(self.asked)})"


@attrs.frozen
class CaseSensitive(ThinkAnswer):
    """A dialogue that reads small letters alone."""

    def parse(self, response, setting):
        names = re.findall("<answer>([a-z ]+)</answer>", response)
        listed = [name for name in setting.actions or names if name in names]
        return Answer("", tuple(listed[:1]), min(len(names), 1))


@attrs.frozen
class HidesTheTask(ThinkAnswer):
    def system(self, setting):
        return self.reply(setting)


@attrs.frozen
class TakesAnything(ThinkAnswer):
    """A dialogue that takes the first action where it finds none."""

    def parse(self, response, setting):
        answer = super().parse(response, setting)
        return answer if answer.valid else Answer("", (setting.actions or ("?",))[:1], 1)


@attrs.frozen
class KeepsAll(ThinkAnswer):
    """A dialogue that does not cut what is beyond the turn's limit."""

    def parse(self, response, setting):
        return super().parse(response, attrs.evolve(setting, max_actions_per_turn=100))


@attrs.frozen
class TrustsCalls(ToolCalls):
    """A dialogue that plays calls with wrong arguments."""

    def parse(self, response, setting):
        answer = super().parse(response, setting)
        calls = tuple(attrs.evolve(call, problem="", fault="") for call in answer.calls)
        return attrs.evolve(answer, calls=calls, actions=tuple(call.action or call.text for call in calls))


@attrs.frozen
class WithoutTemperature(TokenHead):
    def on(self, device):
        return self

    def __call__(self, hidden_N_H, weight_V_H, targets_N, *, temperature=1.0, **options):
        logprobs = (hidden_N_H @ weight_V_H.T).log_softmax(-1)  # without the temperature
        p = logprobs.exp()
        return TokenScores(logprobs.gather(1, targets_N[:, None])[:, 0], -(p * logprobs).sum(-1), None)


@attrs.frozen
class Bare(VarianceEstimator):
    estimand = "whatever"
    needs = frozenset({"s_M"})

    def estimate(self, terms):
        return 0.1


@attrs.frozen
class NeedsTooMuch(GroupMetric):
    needs = frozenset({"entropy"})

    def score(self, rollouts):
        return rollouts.group_ids_P.float()


@attrs.define
class Remembers(RolloutFilter):
    """A component with state of its own."""

    value: float = 0.5

    def select(self, scores_P):
        if scores_P.isnan().any():
            raise_run_error()
        return scores_P >= 0


def raise_run_error():
    from uncollapse.core.errors import RunError

    raise RunError("NaN")


def no_command():
    """A function without @click.command()."""


SUBTLE = {
    "rollout_filter": {"first_half": FirstHalf, "takes_nan": TakesNan, "remembers": Remembers},
    "episode_filter": {"first_episodes": FirstEpisodes, "says_it_keeps_all": SaysItKeepsAll},
    "reward_shaping": {
        "above_the_one_before": AboveTheOneBefore,
        "says_it_is_idle": SaysItIsIdle,
        "counts_calls": CountsCalls,
    },
    "entropy_controller": {
        "reads_the_entropy": ReadsTheEntropy,
        "forgets_its_coefficient": ForgetsItsCoefficient,
        "for_all_runs": ForAllRuns,
        "needs_values": NeedsValues,
    },
    "group_metric": {"by_place": ByPlace, "needs_too_much": NeedsTooMuch},
    "kl": {"not_zero": NotZeroWhereEqual, "constant": Constant},
    "kl_controller": {
        "forgetful": Forgetful,
        "one_for_all": OneForAll,
        "moves_by_chance": moving(lambda asked: random.random() < 0.5),
        "moves_by_its_own_count": moving(lambda asked: asked % 7 == 0),
    },
    "advantage": {
        "neighbours": PairsOfNeighbours,
        "padding": MeanOverPadding,
        "forgets_its_average": learning(ForgetfulAverage),
        "learns_by_place": learning(LastRow),
        "common_average": learning(CommonAverage),
        "noisy_average": learning(NoisyAverage),
        "one_session": learning(lambda: SHARED_AVERAGE),
        "computes_otherwise": learning(Average, raw_rewards),
    },
    "policy_loss": {
        "row_ratio": RowRatio,
        "spreads_gradients": SpreadsGradients,
        "couples_rows": CouplesRows,
        "metric_of_micro_batch": MetricOfMicroBatch,
        "unmasked": Unmasked,
        "spreads_nan": SpreadsNan,
        "by_entropy": ByEntropy,
        "against_the_reference": AgainstTheReference,
    },
    "sampler_correction": {
        "mean_of_the_batch": MeanOfTheBatch,
        "off_the_mask": OffTheMask,
        "says_it_weighs_rows": SaysItWeighsRows,
    },
    "loss_aggregation": {
        "counts_padding": CountsPadding,
        "first_rows_most": FirstRowsMost,
        "divides_by_nothing": DividesByNothing,
    },
    "toolset": {"without_types": WithoutTypes, "offers_nothing": OffersNothing, "one_session": OneSession},
    "verifier": {"first_only": FirstOnly, "by_chance": ByChance, "talks": Talks, "in_percent": GradesInPercent},
    "collapse": {
        "without_state": WithoutState,
        "forgets": detector(verdict=after_three),
        "measures_text": detector(measured={"collapse/word": "many"}),
        "takes_a_name": detector(measured={"actor/entropy": 1.0}),
        "judges_by_text": detector(verdict=lambda session, step, metrics: "stop"),
        "wants_a_metric": detector(verdict=lambda session, step, metrics: metrics["actor/entropy"] and None),
    },
    "task_sampler": {
        "dice_tasks": tasks(DiceTasks),
        "one_counter": tasks(OneCounterTasks),
        "forgetful_tasks": tasks(ForgetfulTasks),
        "numbered_tasks": tasks(NumberedTasks),
        "foresees_others": tasks(Tasks, foreseen=lambda self, first, groups: range(groups)),
        "wrapped_tasks": WrappedTasks,
    },
    "batch_sampler": {
        "forgetful_batches": batches(ForgetfulBatches),
        "dice_batches": batches(DiceBatches),
        "forever_batches": batches(ForeverBatches),
        "draws_more": batches(DiceBatches, draws=lambda self, groups: groups),
    },
    "environment": {
        "dice": Dice,
        "one_board": OneBoard,
        "sets_alarms": SetsAlarms,
        "demonstrates_another": DemonstratesAnother,
        "unsayable": Unsayable,
        "forgets_the_names": rewarding((), rewards={"right": 1.0}),
        "misspells_a_name": rewarding(("right", "brief"), rewards={"rigth": 1.0, "brief": 1.0}),
        "adds_them_up_itself": rewarding(("right", "brief"), rewards={"right": 1.0, "brief": 1.0}, reward=2.0),
        "names_one_twice": rewarding(("right", "right"), rewards={"right": 1.0}),
    },
    "dialogue": {
        "remembers_turns": RemembersTurns,
        "case_sensitive": CaseSensitive,
        "hides_the_task": HidesTheTask,
        "takes_anything": TakesAnything,
        "keeps_all": KeepsAll,
        "trusts_calls": TrustsCalls,
    },
    "token_head": {"no_temperature": WithoutTemperature},
    "variance": {"bare": Bare},
    "experiment": {"wrong_key": {"extends": "tiny-sokoban", "kl": {"ceof": 0.1}}},
    "sweep": {"of_nothing": {"experiment": "tiny-sokobam", "axes": {"seed": [0, 1]}}},
    "command": {"no_command": no_command},
}
"""Kind -> name -> what is registered."""


def _register(kind):
    def registrar(register):
        for name, target in SUBTLE[kind].items():
            register(f"subtle-{name}", target, summary="a mistake")

    return registrar


HOOKS = {
    "rollout_filter": "rollout_filters",
    "episode_filter": "episode_filters",
    "reward_shaping": "reward_shapings",
    "entropy_controller": "entropy_controllers",
    "group_metric": "group_metrics",
    "kl": "kl_variants",
    "kl_controller": "kl_controllers",
    "advantage": "advantage_estimators",
    "policy_loss": "policy_losses",
    "sampler_correction": "sampler_corrections",
    "loss_aggregation": "loss_aggregations",
    "toolset": "toolsets",
    "verifier": "verifiers",
    "collapse": "collapse_detectors",
    "task_sampler": "task_samplers",
    "batch_sampler": "batch_samplers",
    "environment": "environments",
    "dialogue": "dialogues",
    "token_head": "token_heads",
    "variance": "variance_estimators",
    "experiment": "experiments",
    "sweep": "sweeps",
    "command": "commands",
}
for _kind, _hook in HOOKS.items():
    globals()[f"names_{_kind}"] = hookimpl(_register(_kind), specname=f"register_{_hook}")
