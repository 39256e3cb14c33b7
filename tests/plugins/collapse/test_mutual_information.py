"""The detector: what it logs and when, what is saved, what is refused, and a whole run."""

import math
import random
from types import SimpleNamespace

import pytest
import torch
import uncollapse
from rollout_worlds import Counter, says, tiny_model
from uncollapse.core.components import RolloutEngineSession
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.core.runs.timings import timings
from uncollapse.plugins.collapse.mutual_information import MutualInformation
from uncollapse.plugins.collapse.template import TemplateCollapse
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.bandit import PAIRS
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout import rows
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.assemble import DetectorContext
from uncollapse.plugins.training.step.loop import Loop

TOKENIZER = build_tokenizer([*(f"name{number}" for number in range(40)), "seed at Up"])
DIALOGUE = Named("dialogue", "think_answer", {}, ThinkAnswer())
TEMPLATE = Template(TOKENIZER, DIALOGUE.component)
SUFFIXES = {
    *("mi_estimate", "mi_seq_estimate", "mi_estimate_se", "mi_seq_estimate_se", "mi_upper_bound"),
    *("matched_log_prob_mean", "marginal_log_prob_mean", "retrieval_above_chance_se"),
    *("conditional_entropy_est", "conditional_entropy_seq_est", "reasoning_entropy_est", "reasoning_entropy_seq_est"),
    *(
        f"retrieval_{name}{at}"
        for name in ("accuracy", "chance_level", "above_chance")
        for at in ("", "@2", "@4", "@8")
    ),
    *(
        f"{name}{seq}"
        for name in ("marginal_std", "mi_zscore", "marginal_std_ema", "mi_zscore_ema")
        for seq in ("", "_seq")
    ),
}
COUNTS = {
    *("collapse/valid_thinking_rate", "collapse/first_turn_num_total"),
    *("collapse/first_turn_num_valid", "collapse/first_turn_valid_rate"),
}
IDENTICAL = {"collapse/identical_across_prompts", "collapse/identical_within_prompt"}


class Named(Counter):
    def make(self, seed, member=0):
        return super().make(seed)


class Says(RolloutEngineSession):
    """Says the name of its group, or of member ``silent`` nothing."""

    def __init__(self, names, silent=()):
        self.names, self.silent = names, silent

    def generate(self, prompts, sampling, seed):
        return [
            says(TEMPLATE, "" if index in self.silent else f"{name}</think><answer>Up</answer>")
            for index, name in enumerate(self.names[: len(prompts)])
        ]

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


def rollouts(names=("name0", "name0", "name1", "name1", "name2", "name2"), silent=(), mode="full"):
    settings = Rollout(max_turns=2, context_window=mode)
    groups = range(len(names) // 2)
    episodes = collect(Counter(goal=9), settings, Says(names, silent), TEMPLATE, seeds=groups, group_size=2, seed=0)
    return rows.build(episodes, settings, Reward())


class Oracle:
    """Knows the channel: a reasoning has probability ``right`` after a prompt of its own group, else ``wrong``."""

    def __init__(self, right, wrong):
        self.right, self.wrong, self.calls = right, wrong, []

    def pairwise(self, prompts, continuations, micro_batch):
        self.calls.append((len(prompts), len(continuations), micro_batch))
        seeds = [self._number(prompt, "seed") for prompt in prompts]
        names = [self._number(continuation, "") for continuation in continuations]
        return torch.tensor([[self.right if s == n else self.wrong for n in names] for s in seeds]).double()

    @staticmethod
    def _number(tokens, after):
        words = TOKENIZER.decode(list(tokens)).split()
        return words[words.index("seed") + 1] if after else words[0].removeprefix("name")


class Blank:
    """A scorer that no one may ask."""

    def pairwise(self, *_):
        raise AssertionError("there is nothing to score")


def session(seed=0, **settings):
    experiment = SimpleNamespace(seed=seed, dialogue=DIALOGUE)
    return MutualInformation(**settings).start(DetectorContext(experiment, TOKENIZER))


# --- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["full", "limited_multi_turn", "single_turn"])
def test_every_metric_of_every_way_to_draw(mode):
    found = session(turn_uniform=True).measure(rollouts(mode=mode), Oracle(-1.0, -50.0))
    spaces = ("collapse_first_turn_sample", "collapse_trajectory_sample", "collapse_turn_sample")
    times = {"timing_s/collapse_first_turn", "timing_s/collapse_multi_turn"}
    assert found.keys() == {f"{space}/{suffix}" for space in spaces for suffix in SUFFIXES} | COUNTS | IDENTICAL | times
    assert all(math.isfinite(value) for value in found.values())
    assert found["collapse_first_turn_sample/mi_upper_bound"] == pytest.approx(math.log(3))
    assert found["collapse_first_turn_sample/mi_seq_estimate"] == pytest.approx(math.log(3))
    assert found["collapse_first_turn_sample/mi_estimate"] == pytest.approx(math.log(3))
    assert found["collapse_first_turn_sample/mi_seq_estimate_se"] == pytest.approx(0, abs=1e-9)
    assert found["collapse_first_turn_sample/retrieval_accuracy"] == 1.0
    assert found["collapse_first_turn_sample/retrieval_chance_level"] == pytest.approx(1 / 3)
    assert found["collapse_turn_sample/mi_upper_bound"] == pytest.approx(math.log(12))
    assert found["collapse_turn_sample/mi_seq_estimate"] == pytest.approx(math.log(3), abs=1e-6)  # four turns a group
    assert found["collapse/valid_thinking_rate"] == 1.0


def test_a_policy_that_always_says_the_same_has_no_information():
    found = session().measure(rollouts(), Oracle(-3.0, -3.0))
    for space in ("collapse_first_turn_sample", "collapse_trajectory_sample"):
        assert found[f"{space}/mi_estimate"] == pytest.approx(0, abs=1e-12)
        assert found[f"{space}/mi_seq_estimate_se"] == pytest.approx(0, abs=1e-12)
        assert found[f"{space}/retrieval_above_chance"] == pytest.approx(0, abs=1e-12)


def test_only_what_is_asked_for():
    oracle = Oracle(-1.0, -50.0)
    found = session(multi_turn=False, num_samples=4, micro_batch=3).measure(rollouts(), oracle)
    assert {name.split("/")[0] for name in found} == {"collapse", "collapse_first_turn_sample", "timing_s"}
    assert "timing_s/collapse_multi_turn" not in found
    ((columns, reasonings, micro_batch),) = oracle.calls
    assert (reasonings, micro_batch) == (4, 3)
    assert columns in (2, 3)
    oracle = Oracle(-1.0, -50.0)
    session(num_samples="all", turn_uniform=True).measure(rollouts(), oracle)
    assert [call[:2] for call in oracle.calls] == [(3, 6), (12, 12), (12, 12)]
    assert session(first_turn=False, multi_turn=False).measure(rollouts(), Blank()).keys() == COUNTS | IDENTICAL


def test_thoughts_that_are_missing_are_counted_and_left_out():
    found = session().measure(rollouts(silent=(0, 1, 2)), Oracle(-1.0, -50.0))
    assert found["collapse/first_turn_num_total"] == 6
    assert found["collapse/first_turn_num_valid"] == 3
    assert found["collapse/first_turn_valid_rate"] == 0.5
    assert found["collapse/valid_thinking_rate"] == 0.5
    assert found["collapse_first_turn_sample/mi_upper_bound"] == pytest.approx(math.log(2))


@pytest.mark.parametrize(("silent", "pairs"), [(range(6), set()), ((2, 3, 4, 5), {"collapse/identical_within_prompt"})])
def test_too_little_to_compare_is_absent_and_the_counts_say_why(silent, pairs):
    own = session(multi_turn=False)
    found = own.measure(rollouts(silent=tuple(silent)), Blank())
    assert found.keys() == COUNTS | pairs | {"timing_s/collapse_first_turn"}
    assert found["collapse/first_turn_num_valid"] == 6 - len(silent)
    assert own.state_dict() == {"steps": 1, "emas": {}}


def test_one_task_has_no_error():
    found = session(first_turn=False, num_samples="all").measure(rollouts(names=("name0", "name0")), Oracle(-1.0, -9.0))
    assert found["collapse_trajectory_sample/mi_upper_bound"] == pytest.approx(math.log(4))
    assert not {"mi_estimate_se", "retrieval_above_chance_se"} & {name.rpartition("/")[2] for name in found}
    assert found["collapse/identical_within_prompt"] == 1.0
    assert "collapse/identical_across_prompts" not in found  # of equal tasks


@pytest.mark.parametrize(
    ("names", "across", "within"),
    [
        (("name0",) * 6, 1.0, 1.0),
        (("name0", "name0", "name1", "name1", "name2", "name2"), 0.0, 1.0),
        (("name0", "name1", "name0", "name1", "name0", "name2"), 4 / 12, 0.0),
    ],
)
def test_thoughts_that_are_the_same_are_counted_within_and_across_the_tasks(names, across, within):
    found = session(multi_turn=False).measure(rollouts(names), Oracle(-1.0, -50.0))
    assert found["collapse/identical_across_prompts"] == pytest.approx(across)
    assert found["collapse/identical_within_prompt"] == pytest.approx(within)


def test_a_policy_that_falls_into_a_template_gets_a_verdict():
    """Three tasks, whose names the policy says twice; then it says the first name whatever the task."""
    own, judge = session(compute_freq=1), TemplateCollapse().start(None)
    said = [None, None, ("name0",) * 6, ("name0",) * 6, ("name0",) * 6]
    measured = [own.measure(rollouts(names) if names else rollouts(), Oracle(-1.0, -50.0)) for names in said]
    above = [metrics["collapse_first_turn_sample/retrieval_above_chance"] for metrics in measured]
    assert above == pytest.approx([2 / 3, 2 / 3, 0, 0, 0], abs=1e-12)
    verdicts = [judge.judge(step, metrics) for step, metrics in enumerate(measured, 1)]
    assert verdicts[:-1] == [None] * 4
    assert (verdicts[-1].evidence["condition"], verdicts[-1].evidence["early"]) == ("lost", pytest.approx(2 / 3))
    assert verdicts[-1].evidence["collapse/identical_across_prompts"] == 1.0


def test_errors_are_not_swallowed():
    class Broken:
        def pairwise(self, *_):
            raise ZeroDivisionError("the scorer broke")

    with pytest.raises(ZeroDivisionError, match="the scorer broke"):
        session().measure(rollouts(), Broken())


# --- when, and what stays -------------------------------------------------------------------------------------------


def values(measured):
    return {name: value for name, value in measured.items() if not name.startswith("timing_s/")}


def steps(own, count):
    """Measures whose scores change from step to step."""
    first = own.steps
    return [values(own.measure(rollouts(), Oracle(-1.0 - step, -4.0))) for step in range(first + 1, first + count + 1)]


def test_step_1_and_every_fifth():
    found = steps(session(), 11)
    assert [step for step, metrics in enumerate(found, 1) if metrics] == [1, 5, 10]
    assert all(session(compute_freq=1).measure(rollouts(), Oracle(-1.0, -2.0)) for _ in range(3))


def test_averages_follow_the_std():
    found = steps(session(multi_turn=False), 10)
    space = "collapse_first_turn_sample"
    stds = [found[step - 1][f"{space}/marginal_std_seq"] for step in (1, 5, 10)]
    ema = stds[0]
    assert found[0][f"{space}/marginal_std_ema_seq"] == ema
    for step, std in ((5, stds[1]), (10, stds[2])):
        ema = 0.9 * ema + 0.1 * std
        metrics = found[step - 1]
        assert metrics[f"{space}/marginal_std_ema_seq"] == pytest.approx(ema, rel=1e-12)
        assert metrics[f"{space}/mi_zscore_ema_seq"] == pytest.approx(
            metrics[f"{space}/mi_seq_estimate"] / (ema + 1e-3)
        )


def test_a_restored_session_goes_on_as_if_nothing_had_happened():
    whole = steps(session(num_samples=4), 10)
    before = session(num_samples=4)
    first = steps(before, 6)
    random.seed(1)
    torch.manual_seed(1)
    after = session(num_samples=4)
    after.load_state_dict(before.state_dict())
    before.emas.clear()  # the state is a copy
    assert first + steps(after, 4) == whole


def test_draws_depend_on_seed_step_and_way_alone_and_touch_no_global_state():
    states = random.getstate(), torch.get_rng_state()
    first = session(num_samples=4, compute_freq=1, turn_uniform=True)
    drawn = [values(first.measure(rollouts(), Oracle(-1.0, -4.0))) for _ in range(3)]
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    alone = session(num_samples=4, compute_freq=1, first_turn=False)
    assert [
        {name: value for name, value in metrics.items() if name.startswith("collapse_trajectory")} for metrics in drawn
    ] == [
        {name: value for name, value in alone.measure(rollouts(), Oracle(-1.0, -4.0)).items() if "trajectory" in name}
        for _ in range(3)
    ]
    other = session(seed=1, num_samples=4, compute_freq=1, turn_uniform=True)
    assert drawn[0] != drawn[1]
    assert drawn[0] != values(other.measure(rollouts(), Oracle(-1.0, -4.0)))


def test_it_never_speaks():
    own = session()
    assert own.judge(1, {"collapse_first_turn_sample/mi_estimate": 0.0}) is None


# --- composition and runs -------------------------------------------------------------------------------------------


def test_without_thoughts_it_is_refused(bandit):
    with pytest.raises(RequestError, match=r"rollout\.think is false"):
        uncollapse.compose(bandit, ["collapse=[mutual_information]", "rollout.think=false"])


@pytest.mark.parametrize(
    "wrong", ["num_samples=1", "num_samples=some", "compute_freq=0", "bootstrap=3", "micro_batch=0"]
)
def test_wrong_parameters_are_refused(bandit, wrong):
    with pytest.raises(RequestError, match=wrong.split("=")[0]):
        uncollapse.compose(bandit, [f"collapse=[mutual_information({wrong})]"])


def test_its_spellings(bandit):
    text = "collapse=['mutual_information(first_turn=false, multi_turn=true, num_samples=all)']"
    (named,) = uncollapse.compose(bandit, [text]).collapse
    assert named.component == MutualInformation(first_turn=False, num_samples="all")
    assert "scorer" in named.component.needs


@pytest.fixture(scope="module")
def talkative(bandit, tmp_path_factory):
    """The bandit, played by a random model whose few words make it close its thoughts often."""
    directory = tmp_path_factory.mktemp("talkative")
    words = build_tokenizer([" ".join(pair) for pair in PAIRS["train"]])
    tiny_model(len(words)).save_pretrained(directory)
    words.save_pretrained(directory)
    return {
        **bandit,
        "model": {"path": str(directory), "dtype": "float32"},
        "rollout": {**bandit["rollout"], "groups": 4, "group_size": 4, "max_tokens": 60},
        "trainer": {**bandit["trainer"], "steps": 10, "save_every": 4},
        "validation": {"groups": 4, "every": 0},
        "collapse": ["mutual_information"],
    }


ERRORS = {"mi_estimate_se", "mi_seq_estimate_se", "retrieval_above_chance_se"}


@pytest.mark.slow
def test_a_run_logs_steps_1_5_10_and_a_resumed_one_the_same(talkative, tmp_path, monkeypatch):
    uncollapse.train(uncollapse.compose(talkative), tmp_path / "whole")
    records = RunDirectory.open(tmp_path / "whole").metrics()
    assert [r["step"] for r in records if "collapse/valid_thinking_rate" in r] == [1, 5, 10]
    measured = [r for r in records if "collapse_first_turn_sample/mi_estimate" in r]
    assert [r["step"] for r in measured] == [1, 5, 10]
    for record in measured:
        for space in ("collapse_first_turn_sample", "collapse_trajectory_sample"):
            names = {name.removeprefix(f"{space}/") for name in record if name.startswith(space)}
            assert names | ERRORS == set(SUFFIXES)
            assert names & ERRORS in (ERRORS, set())  # of fewer than three tasks there is none
            assert record[f"{space}/mi_seq_estimate"] <= record[f"{space}/mi_upper_bound"]
    spent = timings(records)
    assert 0 < spent["first_turn"] + spent["multi_turn"] <= spent["collapse"]

    train_step = Loop.train_step

    def killed(loop):
        if loop.step == 6:
            raise MemoryError("killed")
        return train_step(loop)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "train_step", killed)
        with pytest.raises(MemoryError):
            uncollapse.train(uncollapse.compose(talkative), tmp_path / "parts")
    uncollapse.train(uncollapse.compose(talkative), tmp_path / "parts", resume=True)
    resumed = RunDirectory.open(tmp_path / "parts").metrics()
    assert [values(record) for record in resumed] == [values(record) for record in records]
