"""Episode filters, reward shaping and entropy controllers in runs: what they see, and what the step makes of it."""

import json
import math

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.components import (
    EntropyController,
    EntropyControllerSession,
    EpisodeFilter,
    RewardShaping,
    RolloutFilter,
)
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes import ranks
from uncollapse.plugins.training.step.detectors import Detectors
from uncollapse.plugins.training.step.loop import Loop

SHORT = ("trainer.steps=2", "validation.every=0", "collapse=[]")


@attrs.frozen
class Members(EpisodeFilter):
    """Keeps the first ``count`` episodes of each of the first ``groups`` groups."""

    count: int = 1
    groups: int = 99

    def select(self, rollouts):
        groups_E = rollouts.groups_of_episodes()
        place_E = torch.stack([(groups_E[:number] == group).sum() for number, group in enumerate(groups_E)])
        return (place_E < self.count) & torch.isin(groups_E, rollouts.group_ids_P[: self.groups])


@attrs.frozen
class FirstGroups(RolloutFilter):
    count: int

    def select(self, scores_P):
        return torch.arange(len(scores_P)) < self.count


@attrs.frozen
class Affine(RewardShaping):
    """slope * reward + each * sampled tokens + share of the steps that are done."""

    slope: float = 1.0
    each: float = 0.0
    late: float = 0.0

    def shape(self, inputs):
        done = self.late * inputs.step / inputs.steps
        return (self.slope * inputs.rewards_E + self.each * inputs.lengths_E + done).double()


@attrs.define
class Told(EntropyControllerSession):
    """Notes what it is told, and multiplies the coefficient."""

    coef: float
    rule: "Steered"
    told: list = attrs.field(factory=list)

    def update(self, entropy, step):
        self.told.append((entropy, step))
        self.coef = entropy if self.rule.follows else self.coef * self.rule.factor

    def state_dict(self):
        return {"coef": self.coef}

    def load_state_dict(self, state):
        self.coef = state["coef"]


@attrs.frozen(eq=False)
class Steered(EntropyController):
    factor: float = 1.0
    follows: bool = False
    sessions: list = attrs.field(factory=list)

    @property
    def needs(self):
        return frozenset({"entropies"} if self.follows else ())

    def start(self, coef, steps):
        self.sessions.append(Told(coef, self))
        return self.sessions[-1]


def made(base, *overrides, episodes=None, shaping=None, controller=None, select=None):
    """The experiment with these components under the names of those that it has."""
    experiment = uncollapse.compose(base, [*SHORT, *overrides])

    def instead(there, component):
        return there if component is None else attrs.evolve(there, component=component)

    chosen, entropy, reward = experiment.filter, experiment.entropy, experiment.reward
    return attrs.evolve(
        experiment,
        filter=attrs.evolve(chosen, select=instead(chosen.select, select), episodes=instead(chosen.episodes, episodes)),
        reward=attrs.evolve(reward, shaping=instead(reward.shaping, shaping)),
        entropy=attrs.evolve(entropy, controller=instead(entropy.controller, controller)),
    )


def train(experiment, path):
    assert uncollapse.train(experiment, path).status == "success"
    return [record for record in RunDirectory.open(path).metrics() if record["step"] > 0]


def weights(path):
    return load_file(RunDirectory.open(path).latest() / "model" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one, other):
    return all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def without_clock(records):
    return [{key: value for key, value in each.items() if not key.startswith("timing_s/")} for each in records]


# --- episode filters ------------------------------------------------------------------------------------------------


def test_only_the_kept_episodes_train(bandit, tmp_path):
    records = train(made(bandit, "trainer.mini_batch=8", episodes=Members(1)), tmp_path)
    for record in records:
        assert record["rollout/episode_kept_ratio"] == 0.5
        assert (record["train/rows"], record["train/optimizer_steps"]) == (4.0, 1.0)
        assert record["rollout/filter_kept_ratio"] == 1.0
    plain = train(made(bandit), tmp_path / "plain")
    assert not any("rollout/episode_kept_ratio" in record for record in plain)


@pytest.mark.parametrize("extra", [(), ("advantage=dr_grpo", "filter.metric=entropy", "kl.coef=0.1")])
def test_whole_groups_are_dropped_as_the_rollout_filter_would_drop_them(bandit, tmp_path, extra):
    one = train(made(bandit, *extra, episodes=Members(2, groups=3)), tmp_path / "episodes")
    # a filter with a score for each group, so that both runs score the policy at the same places
    whole = made(bandit, *extra, select=FirstGroups(3))
    other = train(whole, tmp_path / "groups")
    assert one[0]["rollout/episode_kept_ratio"] == 0.75
    for name in ("train/rows", "actor/pg_loss", "actor/grad_norm", "actor/entropy", "critic/returns_mean"):
        assert [record[name] for record in one] == [record[name] for record in other]
    assert same(weights(tmp_path / "episodes"), weights(tmp_path / "groups"))


def test_the_loss_is_scaled_by_the_ratio_of_groups_alone(bandit, tmp_path):
    settings = (*("trainer.mini_batch=8", "advantage=rloo", "entropy_coeff=0"), "filter.loss_scaling=linear")
    plain = train(made(bandit, *settings, episodes=Members(2, groups=2)), tmp_path / "episodes")
    assert plain[0]["rollout/filter_kept_ratio"] == 1.0
    scaled = train(made(bandit, *settings, select=FirstGroups(2)), tmp_path / "groups")
    assert scaled[0]["critic/advantages_std"] == pytest.approx(0.5 * plain[0]["critic/advantages_std"])


def test_a_step_without_an_episode_trains_nothing_and_counts_as_empty(bandit, tmp_path):
    empty = made(bandit, "collapse=[empty_filter]", "filter.empty_stop_steps=2", episodes=Members(0))
    outcome = uncollapse.train(empty, tmp_path / "run")
    assert outcome.status == "stopped:empty_filter"
    run = RunDirectory.open(tmp_path / "run")
    assert run.status()["verdict"]["reason"] == "the episode filter kept no episode for 2 consecutive steps"
    assert [record["rollout/episode_kept_ratio"] for record in run.metrics() if record["step"]] == [0.0, 0.0]
    assert not any("actor/pg_loss" in record for record in run.metrics())


# --- reward shaping -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["episode", "turn"])
def test_advantages_see_shaped_rewards_and_all_others_the_raw_ones(bandit, placement):
    own = ranks.start_ranks()
    experiment = made(bandit, f"reward.placement={placement}", shaping=Affine(2.0, -0.125, late=8.0))
    seen = []
    parts = assemble(experiment, own)
    try:
        loop = Loop(experiment, parts, own)
        loop.on_rollouts = seen.append
        metrics = [loop.train_step(), loop.train_step()]
    finally:
        parts.close()
    for step, rollouts in enumerate(seen):
        lengths_E = rollouts.mask.sum(1)
        expected_E = 2.0 * rollouts.raw_rewards_E - 0.125 * lengths_E + 4.0 * step
        assert torch.allclose(rollouts.rewards.sum(1), expected_E)
        assert float(rollouts.raw_rewards_E.mean()) == pytest.approx(metrics[step]["train/reward"])
        raw = metrics[step]["rollout/in_group_reward_mean"]
        assert raw == pytest.approx(float(rollouts.raw_rewards_E.mean()))


def test_shaping_comes_before_normalisation(bandit, tmp_path):
    settings = ("reward.normalization=mean_std", "reward.over=batch")
    plain = train(made(bandit, *settings), tmp_path / "plain")
    scaled = train(made(bandit, *settings, shaping=Affine(4.0)), tmp_path / "scaled")
    assert [r["train/reward"] for r in plain[:1]] == [r["train/reward"] for r in scaled[:1]]
    # four times the rewards have the same standard scores
    assert plain[0]["critic/returns_mean"] == pytest.approx(scaled[0]["critic/returns_mean"], abs=1e-4)
    assert close(weights(tmp_path / "plain"), weights(tmp_path / "scaled"))


def test_a_shaping_that_changes_nothing_trains_the_same(bandit, tmp_path):
    train(made(bandit), tmp_path / "plain")
    train(made(bandit, shaping=Affine()), tmp_path / "shaped")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "shaped"))
    train(made(bandit, shaping=Affine(each=-0.5)), tmp_path / "tokens")
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "tokens"))


def test_validation_is_not_shaped(bandit, tmp_path):
    settings = ("validation.every=1", "trainer.steps=1", "trainer.lr=0")
    plain, shaped = (
        uncollapse.train(made(bandit, *settings, shaping=shaping), tmp_path / str(shaping)).metrics
        for shaping in (None, Affine(-3.0))
    )
    assert plain["validation/reward"] == shaped["validation/reward"]


# --- entropy controllers --------------------------------------------------------------------------------------------


def test_a_controller_that_needs_entropies_is_told_them_before_the_update(bandit, tmp_path, monkeypatch):
    coefs = []
    before = Detectors.before_update

    def look(detectors, update):
        coefs.append(update.objective.entropy_coef)
        return before(detectors, update)

    monkeypatch.setattr(Detectors, "before_update", look)
    controller = Steered(follows=True)
    records = train(made(bandit, "advantage=rloo", controller=controller), tmp_path)
    entropies = [record["actor/entropy"] for record in records]
    assert [record["actor/entropy_coef"] for record in records] == entropies == coefs
    assert controller.sessions[-1].told == [(entropies[0], 0), (entropies[1], 1)]
    assert entropies[0] > 0


def test_a_controller_is_told_nothing_that_it_does_not_need(bandit, tmp_path):
    controller = Steered(0.5)
    records = train(made(bandit, "filter.metric=entropy", "filter.select=top_k(2)", controller=controller), tmp_path)
    assert [record["actor/entropy_coef"] for record in records] == [0.005, 0.0025]
    told = controller.sessions[-1].told
    assert [step for _, step in told] == [0, 1]
    assert all(math.isnan(entropy) for entropy, _ in told)


def test_the_coefficient_of_a_controller_trains_as_the_same_number_does(bandit, tmp_path):
    fixed = train(made(bandit, "entropy_coeff=-0.25"), tmp_path / "fixed")
    steered = train(made(bandit, "entropy_coeff=-0.25", controller=Steered(1.0)), tmp_path / "steered")
    assert same(weights(tmp_path / "fixed"), weights(tmp_path / "steered"))
    assert without_clock(fixed) == [
        {key: value for key, value in record.items() if key != "actor/entropy_coef"}
        for record in without_clock(steered)
    ]
    train(made(bandit, "entropy_coeff=-0.25", controller=Steered(0.0)), tmp_path / "off")
    train(made(bandit, "entropy_coeff=0"), tmp_path / "none")
    assert same(weights(tmp_path / "off"), weights(tmp_path / "none"))


def test_steps_that_do_not_train_the_policy_are_not_told_of(bandit, tmp_path):
    alone = Steered(0.5)
    records = train(
        made(bandit, "critic.policy_after=1", "critic.shared=true", "trainer.mini_batch=8", controller=alone),
        tmp_path / "critic",
    )
    assert [step for _, step in alone.sessions[-1].told] == [1]
    assert ["actor/entropy_coef" in record for record in records] == [False, True]
    empty = Steered(0.5)
    train(made(bandit, episodes=Members(0), controller=empty), tmp_path / "empty")
    assert empty.sessions[-1].told == []


def test_a_resumed_controller_goes_on_where_it_was(bandit, tmp_path, monkeypatch):
    settings = ("trainer.steps=4", "trainer.save_every=2", "entropy_coeff=0.5")
    parts = {"shaping": Affine(late=1.0, each=0.1), "episodes": Members(1)}

    def experiment():
        return made(bandit, *settings, controller=Steered(0.5), **parts)

    whole = train(experiment(), tmp_path / "whole")
    run_step = Loop.train_step

    def killed(loop):
        if loop.step == 2:
            raise MemoryError("killed")
        return run_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(experiment(), tmp_path / "parts")
    state = json.loads((tmp_path / "parts" / "checkpoints" / "step_2" / "state.json").read_text())
    assert state["entropy_controller"] == {"coef": 0.125}
    assert uncollapse.train(experiment(), tmp_path / "parts", resume=True).status == "success"
    again = [record for record in RunDirectory.open(tmp_path / "parts").metrics() if record["step"]]
    assert [record["actor/entropy_coef"] for record in again] == [0.25, 0.125, 0.0625, 0.03125]
    assert without_clock(again) == without_clock(whole)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.parametrize("controller", ["schedule(cosine)", "adaptive(target=5.7)", "pi(5.7, low=0, high=0.5)", "epo"])
def test_built_in_controllers_move_the_bonus_and_go_on_after_a_resume(bandit, tmp_path, monkeypatch, controller):
    settings = ("trainer.steps=3", "trainer.save_every=1", "entropy_coeff=0.25", f"entropy.controller={controller}")
    whole = train(made(bandit, *settings), tmp_path / "whole")
    run_step = Loop.train_step

    def killed(loop):
        if loop.step == 2:
            raise MemoryError("killed")
        return run_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(made(bandit, *settings), tmp_path / "parts")
    assert uncollapse.train(made(bandit, *settings), tmp_path / "parts", resume=True).status == "success"
    again = [record for record in RunDirectory.open(tmp_path / "parts").metrics() if record["step"]]
    assert without_clock(again) == without_clock(whole)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    coefs = [record["actor/entropy_coef"] for record in whole]
    if controller.startswith("schedule"):
        assert coefs == pytest.approx([0.25, 0.125, 0.0])
    elif controller.startswith("adaptive"):
        assert coefs == pytest.approx([0.255, 0.26, 0.265])
    elif controller.startswith("pi"):
        assert all(0.25 < coef <= 0.5 for coef in coefs)
