import attrs
import pytest
import torch
import uncollapse
from uncollapse.core.components import CollapseDetector, CollapseSession, Rollouts, Verdict
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RunError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.collapse.session import MetricSession
from uncollapse.plugins.training.step import stages
from uncollapse.plugins.training.step.detectors import Detectors


@attrs.frozen
class Broken(CollapseDetector):
    """Fails where it is told to."""

    where: str = "measure"
    fatal: bool = True

    def start(self, context):
        return BrokenSession(self.where)


class BrokenSession(MetricSession):
    def __init__(self, where):
        self._where = where

    def measure(self, rollouts, scorer):
        if self._where == "measure":
            raise KeyError("no such thing")
        return {"own/value": float("nan") if self._where == "nan" else 1.0}

    def judge(self, step, metrics):
        if self._where == "judge":
            raise ZeroDivisionError("by nothing")
        return Verdict("broken", step, "it says so", stop=False) if self._where == "speak" else None


def detectors(*components):
    return Detectors([Named("collapse", f"d{i}", component=c) for i, c in enumerate(components)], None)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ("measure", "d0 failed in measure: KeyError"),
        ("nan", "d0 failed in measure: ValueError: own/value is nan"),
        ("judge", "d0 failed in judge: ZeroDivisionError: by nothing"),
    ],
)
def test_a_broken_detector_is_named_or_left_out(where, reason):
    with pytest.raises(RunError, match=reason):
        run_once(detectors(Broken(where)))
    tolerant = detectors(Broken(where, fatal=False), Broken("nowhere"))
    metrics, verdicts = run_once(tolerant)
    assert (metrics, verdicts) == ({"own/value": 1.0}, [])
    assert list(tolerant.broken) == ["d0"]
    assert list(tolerant.state_dict()) == ["d1"]


def run_once(found):
    metrics = found.measure(rollouts_of_two(), None)
    return metrics, found.judge(1, metrics)


def test_a_verdict_that_does_not_stop_is_recorded_once(bandit, tmp_path):
    # an entropy can hardly fall below 0.999999 of itself at every step, but it moves: it explodes or collapses
    collapse = ["entropy_collapse(ratio=0.999999, window=1, baseline_steps=1, stop=false)"]
    collapse += ["entropy_explosion(ratio=1.000001, window=1, baseline_steps=1, stop=false)"]
    outcome = uncollapse.train(compose(bandit, {"collapse": collapse, "trainer.steps": 4}), tmp_path / "run")
    status = RunDirectory.open(tmp_path / "run").status()
    assert outcome.status == status["status"] == "success"
    spoken = [verdict["detector"] for verdict in status["verdicts"]]
    assert spoken
    assert len(spoken) == len(set(spoken))
    assert status["verdicts"][0]["evidence"]["baseline"] > 0
    assert "verdict" not in status
    assert "noticed by" in (tmp_path / "run" / "log.txt").read_text()


def test_a_verdict_that_stops_is_the_outcome(bandit, tmp_path):
    # every answer counts as invalid: the step after the window is never reached
    collapse = ["kl_runaway(max_update=1e-12, window=2)"]
    outcome = uncollapse.train(compose(bandit, {"collapse": collapse, "trainer.steps": 4}), tmp_path / "run")
    status = RunDirectory.open(tmp_path / "run").status()
    assert outcome.status == status["status"] == "stopped:kl_runaway"
    assert (status["step"], status["verdict"]["step"]) == (2, 2)
    assert status["verdict"]["evidence"]["threshold"] == 1e-12
    assert [verdict["detector"] for verdict in status["verdicts"]] == ["kl_runaway"]


@attrs.frozen
class BrokenEarly(CollapseDetector):
    where: str = "start"
    fatal: bool = True

    def start(self, context):
        if self.where == "start":
            raise OSError("not here")
        session = BrokenSession("nowhere")
        session.judge = lambda step, metrics: True
        session.state_dict = session.load_state_dict = lambda *_: 1 / 0
        return session


def test_every_part_of_a_broken_detector_is_guarded():
    with pytest.raises(RunError, match="d0 failed in start: OSError: not here"):
        detectors(BrokenEarly())
    assert list(detectors(BrokenEarly(fatal=False)).broken) == ["d0"]
    with pytest.raises(RunError, match="d0 failed in judge: TypeError: it gave a bool"):
        detectors(BrokenEarly("judge")).judge(1, {})
    with pytest.raises(RunError, match="d0 failed in state_dict: ZeroDivisionError"):
        detectors(BrokenEarly("state")).state_dict()
    with pytest.raises(RunError, match="d0 failed in load_state_dict"):
        detectors(BrokenEarly("state")).load_state_dict({"d0": {}})


def test_memory_that_runs_out_is_not_the_detectors_fault():
    def measure(*_):
        raise torch.OutOfMemoryError("no more")

    for fatal in (True, False):
        watched = detectors(BrokenEarly("judge", fatal=fatal))
        watched.sessions["d0"].measure = measure
        with pytest.raises(torch.OutOfMemoryError, match="no more"):
            watched.measure(rollouts_of_two(), None)


@attrs.frozen
class Watching(CollapseDetector):
    """Looks at every update of the policy."""

    value: float = 1.0

    def start(self, context):
        session = BrokenSession("nowhere")
        session.before_update = lambda update: SEEN.append(update) or {"own/of_update": self.value}
        return session


SEEN = []


def test_updates_are_shown_to_those_who_look():
    SEEN.clear()
    found = detectors(Watching(), Broken("nowhere"))
    assert found.before_update("the update") == {"own/of_update": 1.0}
    assert SEEN == ["the update"]
    with pytest.raises(RunError, match="d0 failed in before_update: ValueError: own/of_update is nan"):
        detectors(Watching(float("nan"))).before_update("the update")


def test_the_update_is_the_one_that_is_made(bandit, tmp_path, monkeypatch):
    shown, made = [], []
    monkeypatch.setattr(Detectors, "before_update", lambda _, update: shown.append(update) or {})
    update = stages.update

    def watched(engine, batch, plan, objective, experiment, ranks, scale, **options):
        made.append((engine, batch, plan, objective, scale))
        return update(engine, batch, plan, objective, experiment, ranks, scale, **options)

    monkeypatch.setattr(stages, "update", watched)
    changes = {"collapse": [], "trainer.steps": 2, "trainer.lr_schedule": "linear", "critic.policy_after": 1}
    uncollapse.train(compose(bandit, changes), tmp_path / "run")
    # a critic's update each step, and none of the policy while the critic is alone
    (pending,) = shown
    assert (pending.step, pending.lr_scale, pending.lr) == (2, 0.5, 5e-4)
    assert made[-1] == (pending.policy, pending.batch, pending.optimizer_steps, pending.objective, 0.5)
    rows = pending.optimizer_steps[0]
    weights = pending.weighted(rows).weights
    assert float(weights.sum()) == pytest.approx(1)
    assert bool((weights[rows] > 0).any(1).all())
    assert int((weights > 0).any(1).sum()) == len(rows) == 4


class Rude(CollapseDetector, CollapseSession):
    """Measures, judges and keeps what it is told to."""

    def __init__(self, measured=None, state=None):
        self.measured, self.state = measured or (lambda rollouts: {}), state or {}

    def start(self, context):
        return self

    def measure(self, rollouts, scorer):
        return self.measured(rollouts)

    def judge(self, step, metrics):
        metrics.clear()

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def rollouts_of_two():
    zeros, tokens = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)
    first = torch.arange(2)
    return Rollouts(tokens, tokens == 0, tokens, zeros, zeros + 1, first, first, torch.ones(2), first)


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (lambda r: {"train/success": 1.0}, "the name 'train/success' is not a detector's to give"),
        (lambda r: {"step": 7.0}, "the name 'step' is not a detector's to give"),
        (lambda r: {5: 1.0}, "the name 5 is not a detector's to give"),
        (lambda r: [1.0], "it gave a list, not a mapping of metrics"),
        (lambda r: {"own/sum": r.rewards.zero_().sum()}, "it changed rollouts.rewards in place"),
        (lambda r: {"own/sum": r.rewards.numpy().fill(0) or 0.0}, "it changed rollouts.rewards in place"),
        (lambda r: torch.set_grad_enabled(False) and {}, "it changed torch's recording of gradients"),
    ],
)
def test_a_detector_gives_metrics_of_its_own_and_changes_nothing(measured, reason):
    with pytest.raises(RunError, match=reason):
        detectors(Rude(measured)).measure(rollouts_of_two(), None)
    assert torch.is_grad_enabled()


def test_no_detector_takes_metrics_from_the_record():
    metrics = {"train/success": 0.5}
    assert detectors(Rude(), Rude()).judge(1, metrics) == []
    assert metrics == {"train/success": 0.5}


@pytest.mark.parametrize("state", [{"f": len}, {"f": torch.ones(2)}])
def test_a_state_that_no_checkpoint_can_keep_names_its_detector(state):
    with pytest.raises(RunError, match="the detector d0 failed in state_dict"):
        detectors(Rude(state=state)).state_dict()
