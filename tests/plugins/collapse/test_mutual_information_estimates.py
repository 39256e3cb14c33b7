"""The numbers: the reference vector, the limits, chance, exact enumeration, and the error against the true spread."""

import itertools
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.plugins.collapse.mutual_information_estimates import (
    information,
    per_token,
    retrieval,
    retrieval_error,
    standard_error,
)

PER_TOKEN = torch.tensor([[-1, -3, -4], [-2, -1, -3], [-4, -2, -1.5], [-2.5, -2, -2.2]], dtype=torch.float64)
LENGTHS = torch.tensor([3, 5, 2, 4])
MATCHED = torch.tensor([0, 1, 2, 0])
LOGPROBS = PER_TOKEN * LENGTHS[:, None]
COLUMNS = torch.arange(3)


def everything(logprobs, lengths, matched, prompts):
    return information(logprobs, lengths, matched) | retrieval(per_token(logprobs, lengths), matched, prompts)


def test_reference_vector():
    found = everything(LOGPROBS, LENGTHS, MATCHED, COLUMNS)
    expected = {
        "mi_upper_bound": math.log(3),
        "mi_estimate": 0.476787,
        "mi_seq_estimate": 0.401635,
        "matched_log_prob_mean": -1.5,
        "marginal_log_prob_mean": -1.976787,
        "conditional_entropy_est": 1.5,
        "reasoning_entropy_est": 1.976787,
        "conditional_entropy_seq_est": 5.25,
        "reasoning_entropy_seq_est": 5.651635,
        "marginal_std": 0.193136,
        "marginal_std_seq": 1.938746,
        "mi_zscore": 2.455942,
        "mi_zscore_seq": 0.207056,
        "retrieval_accuracy": 0.75,
        "retrieval_accuracy@2": 0.75,
        "retrieval_accuracy@4": 1.0,
        "retrieval_accuracy@8": 1.0,
        "retrieval_chance_level": 1 / 3,
        "retrieval_chance_level@2": 2 / 3,
        "retrieval_chance_level@4": 1.0,
        "retrieval_chance_level@8": 1.0,
        "retrieval_above_chance": 0.75 - 1 / 3,
        "retrieval_above_chance@2": 0.75 - 2 / 3,
        "retrieval_above_chance@4": 0.0,
        "retrieval_above_chance@8": 0.0,
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_columns_with_the_same_prompt_are_all_hits():
    # the fourth reasoning is best explained by column 1, whose prompt is now its own
    found = retrieval(PER_TOKEN, MATCHED, torch.tensor([0, 0, 1]))
    assert found["retrieval_accuracy"] == 1.0
    assert found["retrieval_chance_level"] == pytest.approx((2 + 2 + 1 + 2) / 12)
    assert found["retrieval_above_chance"] == pytest.approx(1 - 7 / 12)


@pytest.mark.parametrize("score", [-2.5, 0.0])
def test_a_policy_that_ignores_prompts_is_at_zero_and_at_chance(score):
    flat = torch.full((12, 6), score, dtype=torch.float64) * torch.arange(1, 13)[:, None]
    found = everything(flat, torch.arange(1, 13), torch.arange(12) % 6, torch.arange(6))
    assert found["mi_estimate"] == pytest.approx(0, abs=1e-12)
    assert found["mi_seq_estimate"] == pytest.approx(0, abs=1e-12)
    for at, chance in (("", 1 / 6), ("@2", 1 / 3), ("@4", 2 / 3), ("@8", 1.0)):
        assert found[f"retrieval_accuracy{at}"] == pytest.approx(chance)
        assert found[f"retrieval_above_chance{at}"] == pytest.approx(0, abs=1e-12)


def test_identical_prompts():
    scores = (-torch.rand(5, 1, dtype=torch.float64)).expand(5, 4)
    found = everything(scores, torch.full((5,), 3), torch.tensor([0, 1, 2, 3, 0]), torch.zeros(4, dtype=torch.long))
    assert found["mi_estimate"] == pytest.approx(0, abs=1e-12)
    assert found["mi_seq_estimate"] == pytest.approx(0, abs=1e-12)
    assert found["retrieval_accuracy"] == found["retrieval_chance_level"] == 1.0


def test_disjoint_reasonings_reach_the_bound():
    scores = torch.full((8, 8), -900.0, dtype=torch.float64).fill_diagonal_(-20.0)
    found = everything(scores, torch.full((8,), 10), torch.arange(8), torch.arange(8))
    assert found["mi_estimate"] == pytest.approx(math.log(8))
    assert found["mi_seq_estimate"] == pytest.approx(math.log(8))
    assert found["retrieval_accuracy"] == 1.0


def test_ties_share_the_places_that_are_left():
    # own prompt: two of the four columns that tie, behind one that is better
    scores = torch.tensor([[0.0, -1.0, -1.0, -1.0, -1.0, -2.0]], dtype=torch.float64)
    found = retrieval(scores, torch.tensor([1]), torch.tensor([0, 1, 1, 2, 3, 4]))
    assert found["retrieval_accuracy"] == 0.0
    assert found["retrieval_accuracy@2"] == pytest.approx(1 / 2)
    assert found["retrieval_accuracy@4"] == 1.0  # three of four places: both misses cannot fill them
    three = retrieval(scores, torch.tensor([1]), torch.tensor([0, 1, 5, 2, 3, 4]))
    assert three["retrieval_accuracy@4"] == pytest.approx(1 - math.comb(3, 3) / math.comb(4, 3))


def test_the_error_of_retrieval_by_hand():
    """Reasonings 1 and 4 are of task 0; the fourth is missed, and the fifth ties with two columns of other tasks."""
    scores = torch.cat([PER_TOKEN, torch.tensor([[-1.0, -1.0, -1.0]], dtype=torch.float64)])
    matched = torch.tensor([0, 1, 2, 0, 1])
    hits = [1, 1, 1, 0, 1 / 3]
    mean = sum(hits) / 5
    by_task = [hits[0] + hits[3] - 2 * mean, hits[1] + hits[4] - 2 * mean, hits[2] - mean]
    expected = math.sqrt(3 / 2 * sum(value**2 for value in by_task)) / 5
    assert retrieval_error(scores, matched, COLUMNS, COLUMNS) == pytest.approx(expected)


def test_the_error_of_retrieval_counts_each_hit_above_its_own_chance():
    """Columns 0 and 1 have the same prompt, and column 3 is of a task without a reasoning."""
    prompts, tasks = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 2])
    scores = torch.tensor([[-2.0, -1.0, -3.0, -4.0], [-1.0, -2.0, -5.0, -3.0]], dtype=torch.float64)
    excess = [1 - 2 / 4, 0 - 1 / 4]
    mean = sum(excess) / 2
    expected = math.sqrt(3 / 2 * sum((value - mean) ** 2 for value in excess)) / 2
    assert retrieval_error(scores, torch.tensor([0, 2]), prompts, tasks) == pytest.approx(expected)


def test_retrieval_has_no_error_of_fewer_than_three_tasks_and_none_where_all_is_found():
    assert retrieval_error(PER_TOKEN, MATCHED, COLUMNS, torch.tensor([0, 1, 1])) is None
    found = torch.full((8, 8), -9.0, dtype=torch.float64).fill_diagonal_(-1.0)
    assert retrieval_error(found, torch.arange(8), torch.arange(8), torch.arange(8)) == 0


@st.composite
def problems(draw):
    rows, columns = draw(st.integers(2, 7)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 3.0, 300.0]))
    prompts = torch.randint(0, columns, (columns,), generator=generator)
    by_prompt = -scale * torch.rand(rows, columns, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, 9, (rows,), generator=generator)
    matched = torch.randint(0, columns, (rows,), generator=generator)
    return by_prompt[:, prompts] * lengths[:, None], lengths, matched, prompts, generator  # equal prompts score equal


@given(problems())
def test_never_above_the_bound_and_blind_to_order(problem):
    logprobs, lengths, matched, prompts, generator = problem
    found = everything(logprobs, lengths, matched, prompts)
    for name in ("mi_estimate", "mi_seq_estimate"):
        assert found[name] <= math.log(logprobs.shape[1]) + 1e-9
    for k, more in ((1, 2), (2, 4), (4, 8)):
        at, wider = ("" if each == 1 else f"@{each}" for each in (k, more))
        assert 0 <= found[f"retrieval_accuracy{at}"] <= found[f"retrieval_accuracy{wider}"] + 1e-12 <= 1 + 1e-9
    rows = torch.randperm(len(lengths), generator=generator)
    columns = torch.randperm(logprobs.shape[1], generator=generator)
    moved = columns.argsort()[matched[rows]]
    again = everything(logprobs[rows][:, columns], lengths[rows], moved, prompts[columns])
    assert again == pytest.approx(found, abs=1e-9)


@settings(max_examples=20)
@given(problems())
def test_the_error_is_blind_to_shifts_of_a_reasoning(problem):
    logprobs, lengths, matched, prompts, _ = problem
    _, tasks = prompts.unique(return_inverse=True)

    def error(scores):
        return standard_error(scores, matched, tasks, 50, torch.Generator().manual_seed(0))

    assert error(logprobs + 7.0 * lengths[:, None]) == pytest.approx(error(logprobs), abs=1e-9)


def drawn_with(monkeypatch, draws, scores, matched, tasks):
    """The error over replicates that draw these tasks."""
    drawn = torch.tensor(draws)
    monkeypatch.setattr(torch, "randint", lambda high, size, generator: drawn)
    return standard_error(scores, matched, tasks, len(draws), torch.Generator())


def test_the_error_over_replicates_by_hand(monkeypatch):
    """Three columns, one of each task; of a task drawn twice the own column counts once, and others share the rest."""
    scores = torch.tensor([[0.0, -1.0, -2.0], [-3.0, 0.0, -0.5], [-1.0, -4.0, 0.0]], dtype=torch.float64)
    draws = [[0, 0, 1], [0, 1, 2], [1, 1, 1], [2, 1, 2]]  # the third draws one task alone, and is left out

    def gain(own, others):
        ratios = [math.exp(float(scores[own, other])) for other in others]
        return -math.log((1 + 2 * sum(ratios) / len(ratios)) / 3)

    estimates = [
        (2 * gain(0, [1]) + gain(1, [0, 0])) / 3,
        (gain(0, [1, 2]) + gain(1, [0, 2]) + gain(2, [0, 1])) / 3,
        (2 * gain(2, [1]) + gain(1, [2, 2])) / 3,
    ]
    found = drawn_with(monkeypatch, draws, scores, torch.arange(3), torch.arange(3))
    assert found == pytest.approx(statistics.stdev(estimates))
    two = drawn_with(monkeypatch, draws[1:], scores, torch.arange(3), torch.arange(3))
    assert two == pytest.approx(statistics.stdev(estimates[1:]))
    assert drawn_with(monkeypatch, draws[1:3], scores, torch.arange(3), torch.arange(3)) is None


def test_a_task_with_more_columns_takes_more_of_the_places(monkeypatch):
    """One reasoning of task 1, which has one of four columns; task 0 has two, and task 2 has one."""
    scores = torch.tensor([[-1.0, -2.0, 0.0, -3.0]], dtype=torch.float64)
    r, s, _, t = scores[0].exp().tolist()
    shares = [(r + s + t) / 3, 2 * (r + s) / 4, t]  # the mean over the others that were drawn
    gains = [-math.log((1 + 3 * share) / 4) for share in shares]
    draws = [[0, 1, 2], [0, 0, 1], [1, 2, 2]]
    found = drawn_with(monkeypatch, draws, scores, torch.tensor([2]), torch.tensor([0, 0, 1, 2]))
    assert found == pytest.approx(statistics.stdev(gains))


def test_no_other_prompt_is_more_than_500_nats_better_for_the_error(monkeypatch):
    """One reasoning of task 0, drawn once and twice: what explains it best counts as exp(500)."""
    scores = torch.tensor([[-900.0, 0.0, -900.0]], dtype=torch.float64)
    gains = [-math.log((1 + math.exp(500) + 1) / 3), -math.log((1 + 2 * math.exp(500)) / 3)]
    found = drawn_with(monkeypatch, [[0, 1, 2], [0, 0, 1]], scores, torch.tensor([0]), torch.arange(3))
    assert found == pytest.approx(statistics.stdev(gains))
    mild = [-math.log((1 + 1 + 1) / 3), -math.log((1 + 2 * math.exp(500)) / 3)]
    found = drawn_with(monkeypatch, [[0, 0, 2], [0, 0, 1]], scores, torch.tensor([0]), torch.arange(3))
    assert found == pytest.approx(statistics.stdev(mild), rel=1e-6)


def test_a_replicate_without_reasonings_says_nothing(monkeypatch):
    """One reasoning, of task 0: drawn once, drawn twice, and not at all."""
    scores = torch.tensor([[0.0, -1.0, -2.0]], dtype=torch.float64)
    once, twice, never = [0, 1, 2], [0, 0, 1], [1, 2, 2]
    gains = [-math.log((1 + 2 * (math.exp(-1) + math.exp(-2)) / 2) / 3), -math.log((1 + 2 * math.exp(-1)) / 3)]
    found = drawn_with(monkeypatch, [once, twice, never], scores, torch.tensor([0]), torch.arange(3))
    assert found == pytest.approx(statistics.stdev(gains))
    assert drawn_with(monkeypatch, [once, never], scores, torch.tensor([0]), torch.arange(3)) is None


def test_exact_information_of_a_channel():
    """Expectation over all draws of N prompts and a reasoning, by enumeration: below I and ln N, closer with N."""
    channel = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]], dtype=torch.float64)  # p(z | x)
    marginal = channel.mean(0)
    exact = float((channel * (channel / marginal).log()).sum() / 3)

    def expectation(columns):
        total = 0.0
        for prompts in itertools.product(range(3), repeat=columns):
            for z in range(3):
                logprobs = channel.log()[list(prompts), z][None]
                found = information(logprobs, torch.tensor([1]), torch.tensor([0]))["mi_seq_estimate"]
                total += float(channel[prompts[0], z]) * found / 3**columns
        return total

    by_columns = [expectation(columns) for columns in (2, 4, 7)]
    assert by_columns == sorted(by_columns)
    assert all(value < min(exact, math.log(columns)) for value, columns in zip(by_columns, (2, 4, 7), strict=True))
    assert by_columns[-1] == pytest.approx(exact, rel=0.15)


def gaussian(tasks, members, spread, generator):
    """Reasonings that are their prompt and noise, so that the log-probs are known."""
    prompts = torch.randn(tasks, 4, generator=generator, dtype=torch.float64) * spread
    matched = torch.arange(tasks).repeat_interleave(members)
    reasonings = prompts[matched] + torch.randn(tasks * members, 4, generator=generator, dtype=torch.float64)
    return -((reasonings[:, None] - prompts[None]) ** 2).sum(-1) / 2, matched


@pytest.mark.parametrize(("tasks", "members", "spread"), [(8, 8, 0.5), (8, 8, 2.0), (32, 2, 0.2), (64, 1, 1.0)])
def test_the_error_is_the_spread_over_batches(tasks, members, spread):
    generator = torch.Generator().manual_seed(0)
    estimates, errors = [], []
    for _ in range(200):
        logprobs, matched = gaussian(tasks, members, spread, generator)
        estimates.append(information(logprobs, torch.ones(len(matched)), matched)["mi_seq_estimate"])
        errors.append(standard_error(logprobs, matched, torch.arange(tasks), 100, generator))
    assert sum(errors) / len(errors) == pytest.approx(float(torch.tensor(estimates).std()), rel=0.25)


def test_the_error_at_the_bound_is_zero():
    scores = torch.full((8, 8), -900.0, dtype=torch.float64).fill_diagonal_(-20.0)
    error = standard_error(scores, torch.arange(8), torch.arange(8), 100, torch.Generator().manual_seed(0))
    assert error == pytest.approx(0, abs=1e-9)


def test_members_that_move_together_are_drawn_together():
    logprobs, matched = gaussian(16, 1, 0.5, torch.Generator().manual_seed(1))
    repeated = matched.repeat_interleave(10)  # the same reasoning ten times: no more is known

    def error(scores, columns):
        return standard_error(scores, columns, torch.arange(16), 2000, torch.Generator().manual_seed(0))

    assert error(logprobs[repeated], repeated) == pytest.approx(error(logprobs, matched), rel=1e-9)


def test_no_error_of_a_single_task_and_a_finite_one_of_a_hopeless_match():
    generator = torch.Generator().manual_seed(0)
    assert standard_error(LOGPROBS, MATCHED, torch.zeros(3, dtype=torch.long), 50, generator) is None
    # the replicates of two tasks that hold both are all alike: their spread of 0 would be certainty
    assert standard_error(LOGPROBS, MATCHED, torch.tensor([0, 1, 1]), 50, generator) is None
    hopeless = torch.full((3, 3), -1.0, dtype=torch.float64).fill_diagonal_(-5000.0)
    assert math.isfinite(standard_error(hopeless, torch.arange(3), torch.arange(3), 50, generator))
