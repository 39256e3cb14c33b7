"""What a type checker knows of the public interface: ``test_public_types.py`` checks this file, and nothing runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, assert_type

import attrs
import torch
import uncollapse
from torch import Tensor
from uncollapse.api import (
    AdvantageEstimator,
    Advantages,
    BatchSampler,
    BatchSamplerSession,
    CompositionError,
    CreditInputs,
    Description,
    EntropyController,
    EntropyControllerSession,
    Entry,
    Env,
    Environment,
    EpisodeFilter,
    Experiment,
    Group,
    GroupMetric,
    GroupPool,
    KlVariant,
    LossInputs,
    LossOutput,
    Named,
    Outcome,
    PolicyLoss,
    Problem,
    Register,
    Registry,
    RequestError,
    RewardShaping,
    RolloutFilter,
    Rollouts,
    RunDirectory,
    RunError,
    SamplerCorrection,
    ShapingInputs,
    Step,
    Sweep,
    SweepOptions,
    SweepResult,
    TaskSampler,
    TaskSamplerSession,
    Tracker,
    UncollapseError,
    compose,
    hookimpl,
    load_sweep,
    problems,
    registry,
    to_dict,
    train,
)

# --- composing, training, sweeping ----------------------------------------------------------------------------------

experiment = compose("tiny-sokoban", ["kl.coef=0.01"])
assert_type(experiment, Experiment)
assert_type(experiment.kl.coef, float)
assert_type(experiment.entropy.coef, float)
assert_type(experiment.rollout.groups, int)
assert_type(experiment.filter.select, Named)
assert_type(compose({"extends": "tiny-sokoban"}, {"kl.coef": 0.01}, registry()), Experiment)
assert_type(problems(Path("mine.yaml")), list[Problem])
assert_type(to_dict(experiment), dict[str, Any])

outcome = train(experiment, "runs/mine")
assert_type(outcome, Outcome)
assert_type(train("tiny-sokoban", Path("runs/mine"), resume=True, callbacks=[object()]), Outcome)
assert_type(train("tiny-sokoban", "runs/mine", resume=True, steps=300, overrule=True), Outcome)
assert_type(outcome.status, str)
assert_type(outcome.metrics, dict[str, float])
assert_type(outcome.exit_code, int)

sweep = Sweep("tiny-sokoban", axes={"seed": [0, 1]}, root="runs/mine")
assert_type(sweep.root, Path | None)
assert_type(load_sweep("demo"), Sweep)
result = sweep.run(launcher="local(slots=2)", options=SweepOptions(stale="keep", retries=1))
assert_type(result, SweepResult)
assert_type(result.statuses, Mapping[str, str])
assert_type(result.rows(), list[dict[str, Any]])
assert_type(result.report(), Path)
assert_type(SweepResult.read("runs/mine"), SweepResult)
print(result.to_pandas().head())

run = RunDirectory.open("runs/mine")
assert_type(run, RunDirectory)
assert_type(RunDirectory("runs/mine").path, Path)
assert_type(run.metrics(), list[dict[str, Any]])
assert_type(run.latest(), Path | None)
assert_type(uncollapse.RunDirectory.open("runs/mine"), RunDirectory)
assert_type(uncollapse.compose("tiny-sokoban"), Experiment)
assert_type(uncollapse.__version__, str)

# --- the registry and plugins ---------------------------------------------------------------------------------------

assert_type(registry(), Registry)
assert_type(registry().names("kl"), list[str])
assert_type(registry().entry("kl", "mse"), Entry)
assert_type(registry().describe("kl", "mse"), Description)


@attrs.frozen
class AboveMean(RolloutFilter):
    """Keeps the groups that score above the mean."""

    def select(self, scores_P: Tensor) -> Tensor:
        return scores_P > scores_P.mean()


@attrs.frozen
class MeanReward(GroupMetric):
    """Scores a group by its mean reward."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, rollouts: Rollouts) -> Tensor:
        assert_type(rollouts.entropies, Tensor | None)
        return rollouts.raw_rewards_E


@attrs.frozen
class Untruncated(EpisodeFilter):
    """Drops the episodes that a limit has ended."""

    def select(self, rollouts: Rollouts) -> Tensor:
        assert rollouts.truncated_E is not None
        return ~rollouts.truncated_E


@attrs.frozen
class Brief(RewardShaping):
    """Lets each token cost a little."""

    def shape(self, inputs: ShapingInputs) -> Tensor:
        assert_type(inputs.max_tokens, int)
        return inputs.rewards_E - 0.001 * inputs.lengths_E


@attrs.frozen
class Fading(EntropyController):
    """Lets the coefficient fade to 0."""

    def start(self, coef: float, steps: int) -> "FadingSession":
        return FadingSession(coef, steps)


@attrs.define
class FadingSession(EntropyControllerSession):
    """Fades in one run."""

    coef: float
    steps: int

    def update(self, entropy: float, step: int) -> None:
        self.coef *= 1 - step / self.steps

    def state_dict(self) -> dict[str, Any]:
        return {"coef": self.coef}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coef = state["coef"]


@attrs.frozen
class Squared(KlVariant):
    """Estimates KL by half of the squared log-ratio."""

    value_bias: ClassVar[str] = "biased"
    gradient_bias: ClassVar[str] = "biased"

    def __call__(self, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
        return (logprobs - ref_logprobs).square() / 2


@attrs.frozen
class Plain(AdvantageEstimator):
    """Gives each token the reward of its row."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def compute(self, batch: CreditInputs) -> Advantages:
        assert_type(batch.values, Tensor | None)
        credit_B_T = batch.rewards.sum(1, keepdim=True) * batch.mask
        return Advantages(credit_B_T, credit_B_T)


@attrs.frozen
class Reinforce(PolicyLoss):
    """Weights log-probs by advantages."""

    def __call__(self, inputs: LossInputs) -> LossOutput:
        assert_type(inputs.prepared, Mapping[str, Tensor])
        return LossOutput(-inputs.logprobs * inputs.advantages * inputs.mask, {})


@attrs.frozen
class Even(SamplerCorrection):
    """Corrects nothing."""

    def correction(
        self, old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        return torch.ones_like(old_logprobs) * mask, {}


@attrs.frozen
class Odd(TaskSampler):
    """Draws odd seeds."""

    def start(self, first: int, environment: Environment, seed: int) -> TaskSamplerSession:
        assert_type(environment.tasks, int | None)
        return OddSession(2 * first + 1)


@attrs.define
class OddSession(TaskSamplerSession):
    """Counts in twos."""

    next: int

    def draw(self, count: int) -> list[int]:
        self.next += 2 * count
        return list(range(self.next - 2 * count, self.next, 2))

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.next = state["next"]


@attrs.frozen
class Twice(BatchSampler):
    """Samples twice as many groups, and takes those that teach."""

    def start(self, groups: int, group_size: int) -> BatchSamplerSession:
        return TwiceSession(groups)


@attrs.define
class TwiceSession(BatchSamplerSession):
    """Collects for one run."""

    groups: int

    def collect(self, pool: GroupPool, step: int) -> list[Group]:
        sampled = pool.sample(2 * self.groups)
        teaching = [group for group, teaches in zip(sampled, pool.teaches(sampled), strict=True) if teaches]
        assert_type(sampled[0].rewards, tuple[float, ...])
        return teaching[: self.groups] or sampled[: self.groups]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@attrs.frozen
class Coin(Environment):
    """Rewards the word heads."""

    instruction: str = "Say heads or tails."
    actions: tuple[str, ...] | None = ("heads", "tails")

    def make(self, seed: int, member: int = 0) -> Env:
        return Toss()


class Toss(Env):
    """Plays one throw."""

    def initial_observation(self) -> str:
        return "A coin is thrown."

    def step(self, action: str) -> Step:
        return Step("It fell.", float(action == "heads"), done=True)


@attrs.frozen
class Printer(Tracker):
    """Prints the metrics of each step."""

    def start(self, run: RunDirectory) -> object:
        return PrinterSession()


class PrinterSession:
    """Prints during one run."""

    @hookimpl
    def step_finished(self, run: RunDirectory, step: int, metrics: Mapping[str, float]) -> None:
        print(run.path, step, metrics["reward"])


select: RolloutFilter = AboveMean()
metric: GroupMetric = MeanReward()
episodes: EpisodeFilter = Untruncated()
shaping: RewardShaping = Brief()
controller: EntropyController = Fading()
kl: KlVariant = Squared()
advantage: AdvantageEstimator = Plain()
loss: PolicyLoss = Reinforce()
correction: SamplerCorrection = Even()
tasks: TaskSampler = Odd()
batch: BatchSampler = Twice()
environment: Environment = Coin()
tracker: Tracker = Printer()


@hookimpl
def register_rollout_filters(register: Register) -> None:
    register("above_mean", AboveMean, summary="keep the groups above the mean", aliases=("over_mean",))
    register("lazy", "somewhere.filters:AboveMean")


# --- errors ---------------------------------------------------------------------------------------------------------

try:
    compose("tiny-sokoban", {"kl.coef": -1})
except CompositionError as error:
    assert_type(error.problems, tuple[Problem, ...])
    assert_type(error.problems[0].key, str)
except (RequestError, RunError) as error:
    base: UncollapseError = error
    assert_type(base.fix, str)
    assert_type(base.exit_code, int)

# --- what is no use of it: each line must be an error, or the comment that forgives it is one -----------------------

uncollapse.compos("tiny-sokoban")  # type: ignore[attr-defined]
train(experiment)  # type: ignore[call-arg]
compose(3)  # type: ignore[arg-type]
not_a_filter: RolloutFilter = Squared()  # type: ignore[assignment]
SweepOptions(stale="never")  # type: ignore[arg-type]
