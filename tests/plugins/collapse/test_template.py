"""The detector of template collapse: what it says, when it is silent, and how often it is wrong."""

import itertools
import json

import attrs
import pytest
import torch
import uncollapse
from judging import first, session_of
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.collapse.mutual_information_estimates import retrieval, retrieval_error
from uncollapse.plugins.collapse.replay import find_runs, replay_all
from uncollapse.plugins.collapse.template import ERROR, IDENTICAL, RETRIEVAL, VALID, mean
from uncollapse.plugins.rollout.engine_hf import HfSession


def told(values, error=0.1, valid=1.0, **more):
    """Records of measurements of the retrieval above chance; ``None`` for steps without one."""
    return [{} if value is None else {RETRIEVAL: value, ERROR: error, VALID: valid, **more} for value in values]


def same(shares, **more):
    return [{IDENTICAL: share, VALID: 1.0, **more} for share in shares]


def test_retrieval_that_stays_below_its_early_value_is_lost():
    step, verdict = first(session_of("template_collapse"), told([0.7, 0.5, None, 0.1, 0.17, 0.0]))
    assert (step, verdict.detector, verdict.stop) == (6, "template_collapse", False)
    assert (
        verdict.reason
        == "reasonings identified their prompts less than 0.3 times as well as early on, 3 times in a row"
    )
    assert verdict.evidence == {
        "condition": "lost",
        RETRIEVAL: 0.0,
        ERROR: 0.1,
        VALID: 1.0,
        "early": pytest.approx(0.6),
        "threshold": pytest.approx(0.18),
    }


@pytest.mark.parametrize(
    "values",
    [
        [0.7, 0.5] + [0.18001] * 30,  # not below the limit
        [0.7, 0.5] + [0.0, 0.0, 0.2] * 10,  # outliers
        [0.9 - 0.02 * step for step in range(30)],  # forgets slowly, down to 0.32
        [0.3, 0.3] + [1.2] * 10 + [0.3] * 10,  # a rise, and the end of it
        [0.6],
        [],
    ],
)
def test_retrieval_that_is_not_lost(values):
    assert first(session_of("template_collapse"), told(values)) == (None, None)


def test_a_fall_within_its_errors_is_no_fall():
    """The mean of two is 0.6 +- 0.28 and that of three 0.05 +- 0.23, which differ by 0.55 +- 0.37."""
    falling = [*told([0.6, 0.6], error=0.01), *told([0.05] * 9, error=0.5)]
    assert first(session_of("template_collapse"), falling) == (None, None)
    surer = [*told([0.6, 0.6], error=0.01), *told([0.05] * 9, error=0.47)]
    assert first(session_of("template_collapse"), surer)[0] == 5


def test_retrieval_that_has_never_been_above_chance():
    step, verdict = first(session_of("template_collapse"), told([0.1, -0.1, 0.05, 0.02]))
    assert (step, verdict.evidence["condition"]) == (4, "never")
    assert verdict.reason == "reasonings have never identified their prompts, in 4 measurements"
    assert "early" not in verdict.evidence


@pytest.mark.parametrize("values", [[0.15] * 30, [0.05, 0.05, 0.18, 0.18, *[0.1] * 9], [0.0] * 3])
def test_chance_is_told_by_the_error_of_all_measurements_together(values):
    """0.15 +- 0.1 is within its error twice, and 0.15 +- 0.07 is not."""
    assert first(session_of("template_collapse"), told(values)) == (None, None)
    assert first(session_of("template_collapse", measurements=1), told([0.2])) == (1, first_of([0.2]))
    assert first(session_of("template_collapse", measurements=1, baseline_measurements=1), told([0.2001])) == (
        None,
        None,
    )


def first_of(values):
    return first(session_of("template_collapse", measurements=len(values)), told(values))[1]


def test_equal_scores_are_chance_up_to_rounding():
    """Columns that tie have no error at all, and a difference of rounding."""
    assert first(session_of("template_collapse"), told([3e-17] * 9, error=0.0))[0] == 4


def test_what_a_run_learned_late_can_be_lost():
    step, verdict = first(session_of("template_collapse", measurements=9), told([0.0] * 6 + [0.6] * 9 + [0.0] * 3))
    assert (step, verdict.evidence["condition"]) == (18, "lost")
    assert verdict.evidence["early"] == pytest.approx(0.3)  # the first two in a row that are above chance: 0 and 0.6


def test_identical_reasonings():
    step, verdict = first(session_of("template_collapse"), same([0.95, 0.95, 0.9, 0.91, 1.0, 1.0]))
    assert (step, verdict.evidence) == (6, {"condition": "identical", VALID: 1.0, IDENTICAL: 1.0})
    assert verdict.reason == "more than 90% of reasonings for different prompts were equal, 3 times in a row"
    assert first(session_of("template_collapse", max_identical=1), same([1.0] * 9)) == (None, None)
    assert first(session_of("template_collapse"), same([0.9] * 9)) == (None, None)


def test_measurements_without_valid_thoughts_or_without_an_error_say_nothing():
    for records in (
        told([0.6] * 2, valid=0.5) + told([0.0] * 30, valid=0.49, **{IDENTICAL: 1.0}),
        [{RETRIEVAL: 0.0, VALID: 1.0}] * 30,
        [{RETRIEVAL: 0.0, ERROR: 0.1}] * 30,
        [{}] * 30,
    ):
        assert first(session_of("template_collapse"), records) == (None, None)
    session = session_of("template_collapse")
    assert first(session, told([0.6] * 2 + [0.0] * 3))[0] == 5
    assert session.judge(6, {}) is None
    assert session.judge(7, told([0.0])[0]).step == 7


@pytest.mark.parametrize(
    "records",
    [told([0.7, None, 0.5, 0.0, 0.0, None, 0.0]), told([0.0, None, 0.0, 0.0, 0.0]), same([0.1, 1.0, 1.0, 1.0])],
)
def test_state_survives_a_resume(records):
    expected = first(session_of("template_collapse", stop=True), records)
    assert expected[0] == len(records)
    for cut in range(len(records)):
        before = session_of("template_collapse")
        assert first(before, records[:cut]) == (None, None)
        after = session_of("template_collapse", stop=True)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        step, verdict = first(after, records[cut:])
        assert (step + cut, verdict.reason, verdict.evidence) == (expected[0], expected[1].reason, expected[1].evidence)
        assert verdict.stop


def test_the_mean_of_readings():
    assert mean([(0.2, 0.3), (0.4, 0.4)]) == pytest.approx((0.3, 0.25))


@pytest.mark.parametrize(
    ("parameter", "allowed", "refused"),
    [
        ("ratio", (1e-9, 0.999), (0, 1)),
        *((name, (1, 9), (0, -1)) for name in ("window", "baseline_measurements", "measurements")),
        *((name, (0, 1), (-0.001, 1.001)) for name in ("max_identical", "min_valid")),
    ],
)
def test_thresholds_that_make_no_sense_are_refused_and_all_others_are_not(parameter, allowed, refused):
    for value in allowed:
        assert getattr(registry().create("collapse", "template_collapse", **{parameter: value}), parameter) == value
    for value in refused:
        with pytest.raises(RequestError, match=f"'{parameter}' must be"):
            registry().create("collapse", "template_collapse", **{parameter: value})


def test_what_is_watched_for_where_nothing_is_said():
    counts = {"window": 3, "baseline_measurements": 2, "measurements": 4}
    shares = {"ratio": 0.3, "max_identical": 0.9, "min_valid": 0.5}
    assert attrs.asdict(registry().create("collapse", "template_collapse")) == {**counts, **shares, "stop": False}


def test_it_needs_the_detector_that_measures_beside_it():
    with pytest.raises(RequestError, match="add mutual_information to collapse"):
        uncollapse.compose("tiny-sokoban", ["collapse=[template_collapse]"])
    with pytest.raises(RequestError, match="mutual_information has first_turn=false"):
        uncollapse.compose("tiny-sokoban", ["collapse=[template_collapse, mutual_information(first_turn=false)]"])
    both = "collapse=[template_collapse, mutual_information]"
    with pytest.raises(RequestError, match=r"rollout\.groups is below 3"):
        uncollapse.compose("tiny-sokoban", [both, "rollout.groups=2"])
    composed = uncollapse.compose("tiny-sokoban", [both, "rollout.groups=3", "trainer.mini_batch=24"])
    assert [named.name for named in composed.collapse] == ["template_collapse", "mutual_information"]


# --- how often it is wrong ------------------------------------------------------------------------------------------


def measured(share, tasks, members, rng):
    """A measurement in which a share of the tasks is told apart, each up to one of its members in ten."""
    scores = torch.rand(tasks * members, tasks, generator=rng, dtype=torch.float64)
    matched = torch.arange(tasks).repeat_interleave(members)
    known = torch.rand(tasks, generator=rng) < share
    sure = torch.rand(tasks * members, generator=rng) < 0.9
    scores[torch.arange(len(matched)), matched] += 2.0 * (known[matched] & sure)
    columns = torch.arange(tasks)
    value = retrieval(scores, matched, columns)["retrieval_above_chance"]
    return told([value], error=retrieval_error(scores, matched, columns, columns))[0]


def rate(shares, seed, tasks=8, members=8, runs=60):
    """The share of runs with a verdict; ``shares`` are those of the tasks that each measurement can tell apart."""
    rng = torch.Generator().manual_seed(seed)
    spoke = 0
    for _ in range(runs):
        session = session_of("template_collapse")
        spoke += any(session.judge(step, measured(share, tasks, members, rng)) for step, share in enumerate(shares, 1))
    return spoke / runs


@pytest.mark.parametrize(("share", "limit"), [(0.9, 0.0), (0.6, 0.0), (0.4, 0.05)])
def test_healthy_runs_of_eight_tasks_hardly_ever_get_a_verdict(share, limit):
    """20 measurements, of 100 steps; with a share of 0.4 the retrieval above chance is 0.3 +- 0.15."""
    assert rate([share] * 20, seed=0) <= limit


def test_templates_are_found():
    assert rate([0.6] * 4 + [0.0] * 6, seed=1) >= 0.9
    assert rate([0.0] * 4, seed=2) >= 0.9


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_the_error_of_retrieval_is_its_spread_over_batches(share):
    rng = torch.Generator().manual_seed(3)
    records = [measured(share, 16, 4, rng) for _ in range(400)]
    values = torch.tensor([record[RETRIEVAL] for record in records])
    assert sum(record[ERROR] for record in records) / 400 == pytest.approx(float(values.std()), rel=0.15)


# --- a run that collapses -------------------------------------------------------------------------------------------


HEALTHY_STEPS = 3


@pytest.mark.slow
def test_a_run_whose_policy_comes_to_answer_every_prompt_alike_gets_the_verdict(tmp_path, monkeypatch):
    """From the fourth step on every prompt gets the response that was sampled for the first one."""
    generate = HfSession.generate
    steps = itertools.count(1)

    def parrot(engine, prompts, sampling, seed):
        if next(steps) <= HEALTHY_STEPS:
            return generate(engine, prompts, sampling, seed)
        return generate(engine, prompts[:1], sampling, seed) * len(prompts)

    monkeypatch.setattr(HfSession, "generate", parrot)
    measured = "mutual_information(compute_freq=1, multi_turn=false, num_samples=all)"
    settings = {
        "collapse": [measured, "template_collapse(stop=true)", "gradient_spike", "length_drift"],
        "advantage": "grpo",
        "rollout.max_turns": 1,
        "validation.every": 0,
        "validation.before_train": False,
        "trainer.steps": 9,
        "trainer.lr": 1e-5,
    }
    uncollapse.train(uncollapse.compose("tiny-sokoban", settings), tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    above = [record[RETRIEVAL] for record in run.metrics()]
    shares = [record[IDENTICAL] for record in run.metrics()]
    assert min(above[:HEALTHY_STEPS]) > 0.4
    assert above[HEALTHY_STEPS:] == pytest.approx([0.0] * 3, abs=1e-6)
    assert max(shares[:HEALTHY_STEPS]) < 0.5
    assert shares[HEALTHY_STEPS:] == [1.0] * 3
    status = run.status()
    assert (status["status"], status["step"]) == ("stopped:template_collapse", HEALTHY_STEPS + 3)
    assert status["verdict"]["evidence"]["condition"] == "lost"
    # what a run has logged can be judged again, with other limits
    (item,) = replay_all(find_runs([run.path]), ["template_collapse(window=1)"], None)
    assert item.verdict.step == HEALTHY_STEPS + 1
