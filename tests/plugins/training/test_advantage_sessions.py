"""Advantage estimators that learn: what a run keeps of them, also where one holds another."""

import json
from typing import Any

import attrs
import pytest
import torch
import uncollapse
from safetensors.torch import load_file
from uncollapse.core.components import AdvantageEstimator, AdvantageEstimatorSession, CreditInputs, GroupMetric
from uncollapse.core.compose.combinations import combination_problems
from uncollapse.core.compose.fields import component
from uncollapse.core.compose.inner import named_of
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes import ranks
from uncollapse.plugins.training.step.borders import CheckedAdvantage
from uncollapse.plugins.training.step.loop import Loop

SHORT = ("trainer.steps=3", "trainer.save_every=1", "validation.every=0", "collapse=[]", "trainer.mini_batch=8")
LATE = "trainer.save_every=-1"
"""Checkpoints at the end of a run only, or where it fails."""


@attrs.frozen
class Doubled(AdvantageEstimator):
    """Twice another estimator's; its author has never heard of sessions."""

    of: Any = component("advantage", "grpo")  # noqa: RUF009 - makes an attrs field

    def compute(self, batch):
        result = self.of.component.compute(batch)
        return attrs.evolve(result, advantages=2.0 * result.advantages)


@attrs.define
class OwnSession(AdvantageEstimatorSession):
    inner: Any

    def compute(self, batch):
        return self.inner.compute(batch)

    def state_dict(self):
        return {"inner": self.inner.state_dict()}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])


@attrs.frozen
class StartsItself(AdvantageEstimator):
    """Starts and keeps the session of the other estimator itself."""

    of: Any = component("advantage", "rae")  # noqa: RUF009 - makes an attrs field

    def compute(self, batch):
        return self.of.component.compute(batch)

    def start(self):
        return OwnSession(self.of.component.start())


@attrs.frozen
class Credited(GroupMetric):
    by: Any = component("advantage", "grpo")  # noqa: RUF009 - makes an attrs field

    def score(self, rollouts):
        raise NotImplementedError


def batch(*scores):
    """A group of one episode for each score."""
    rewards = torch.tensor(scores)[:, None]
    given = {"logprobs": torch.full_like(rewards, -1.0), "entropies": torch.full_like(rewards, 0.5)}
    return CreditInputs(rewards, torch.ones_like(rewards).bool(), torch.arange(len(scores)), **given)


def records(path):
    """The records of all steps without their times."""
    steps = [record for record in RunDirectory.open(path).metrics() if record["step"]]
    return [{key: value for key, value in record.items() if "timing_s/" not in key} for record in steps]


def weights(path):
    return load_file(RunDirectory.open(path).latest() / "model" / "model.safetensors")


def state_of(path, step):
    return json.loads((path / "checkpoints" / f"step_{step}" / "state.json").read_text())["advantage"]


@pytest.mark.parametrize(
    ("advantage", "metrics"),
    [
        ("rae(0.5)", {"advantage/baseline"}),
        ("entropic(1.0, kp=0.1, of=rae(0.5))", {"advantage/alpha", "advantage/rae.baseline"}),
        ("repo(0.02, of=rae(0.5))", {"advantage/zeta", "advantage/rae.baseline"}),
        pytest.param("grpo", {"advantage/rae.baseline"}, id="an estimator without sessions of its own"),
    ],
)
def test_a_killed_run_goes_on_with_what_its_estimator_had_learnt(bandit, tmp_path, monkeypatch, advantage, metrics):
    def experiment(*settings):
        composed = uncollapse.compose(bandit, [*SHORT, f"advantage={advantage}", *settings])
        if advantage != "grpo":
            return composed
        # under the name of another one, since no plugin registers it
        doubled = attrs.evolve(composed.advantage, component=Doubled("rae(0.5)"))
        return attrs.evolve(composed, advantage=doubled)

    assert uncollapse.train(experiment(), tmp_path / "whole").status == "success"
    whole, run_step = records(tmp_path / "whole"), Loop.train_step

    def killed(loop):
        if loop.step == 2:
            loop.parts.advantage.compute(batch(100.0))  # the checkpoint is of the step before this one
            raise MemoryError("killed")
        return run_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(experiment(LATE), tmp_path / "parts")
    assert state_of(tmp_path / "parts", 2) == state_of(tmp_path / "whole", 2) != state_of(tmp_path / "whole", 1)
    assert uncollapse.train(experiment(LATE), tmp_path / "parts", resume=True).status == "success"
    assert records(tmp_path / "parts") == whole
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    logged = [{key: value for key, value in record.items() if key.startswith("advantage/")} for record in whole]
    assert all(set(numbers) == metrics for numbers in logged)
    assert all(len({numbers[name] for numbers in logged}) > 1 for name in metrics)


def test_the_baseline_of_a_run_is_the_average_of_its_rewards(bandit, tmp_path):
    experiment = uncollapse.compose(bandit, [*SHORT, "advantage=rae(0.5)", "kl.coef=0"])
    rewards, own = [], ranks.start_ranks()
    parts = assemble(experiment, own)
    try:
        loop = Loop(experiment, parts, own)
        loop.on_rollouts = lambda rollouts: rewards.extend(rollouts.raw_rewards_E.tolist())
        measured = [loop.train_step()["advantage/baseline"] for _ in range(2)]
    finally:
        parts.close()
    expected, baselines = 0.0, []
    for first, second in zip(rewards[::2], rewards[1::2], strict=True):  # groups of two
        expected = 0.25 * expected + 0.375 * (first + second)
        baselines.append(expected)
    assert measured == pytest.approx([baselines[3], baselines[7]], abs=1e-6)


def started(estimator):
    return CheckedAdvantage(named_of("advantage", estimator, "advantage")).start()


@pytest.mark.parametrize(
    ("estimator", "times"),
    [(Doubled("rae(0.5)"), 2.0), (Doubled(Doubled("rae(0.5)")), 4.0), (StartsItself("rae(0.5)"), 1.0)],
)
def test_an_estimator_that_another_one_holds_goes_on_from_step_to_step(estimator, times):
    session, other = started(estimator), started(estimator)
    assert session.compute(batch(1.0)).advantages.item() == times
    assert session.compute(batch(1.0)).advantages.item() == 0.5 * times
    assert other.compute(batch(1.0)).advantages.item() == times
    resumed = started(estimator)
    resumed.load_state_dict(json.loads(json.dumps(session.state_dict())))
    assert resumed.compute(batch(1.0)).advantages.item() == 0.25 * times
    assert estimator.compute(batch(1.0)).advantages.item() == times


def test_a_state_of_other_estimators_is_not_taken():
    with pytest.raises(ValueError, match="zip"):
        started("rae").load_state_dict(started("entrocraft(of=rae)").state_dict())


def test_an_estimator_that_learns_is_refused_where_nobody_tells_it_of_the_steps(bandit):
    experiment = uncollapse.compose(bandit, ["filter.select=top_k(2)"])

    def problems(by):
        metric = attrs.evolve(experiment.filter.metric, component=Credited(by))
        chosen = attrs.evolve(experiment.filter, metric=metric)
        return [str(problem) for problem in combination_problems(attrs.evolve(experiment, filter=chosen))]

    assert problems("grpo") == []
    for by in ("rae", "entrocraft(of=rae)"):
        assert any("learns from step to step" in text and "filter.metric.by" in text for text in problems(by))
