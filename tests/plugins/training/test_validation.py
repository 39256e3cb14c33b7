import math
import statistics

import pytest
from uncollapse.core.components import Answer
from uncollapse.plugins.rollout.episode import Episode, Turn
from uncollapse.plugins.training.step.metrics import validation_metrics


def episode(seed, task, success, member=0):
    answer = Answer("", ("Up",), 1)
    turn = Turn((1,), (2,), (0.0,), "eos", task, "", answer, 1, 1.0, 0.0)
    return Episode(seed, member, "system", (turn,), "success" if success else "done", {})


def test_standard_error_of_distinct_tasks_is_the_textbook_one():
    outcomes = [1, 0, 1, 1, 0, 1, 0]
    metrics = validation_metrics([episode(k, f"room {k}", won) for k, won in enumerate(outcomes)])
    assert metrics["validation/success"] == pytest.approx(4 / 7)
    assert metrics["validation/success_se"] == pytest.approx(statistics.stdev(outcomes) / math.sqrt(7))
    assert metrics["validation/tasks"] == metrics["validation/episodes"] == 7


def test_a_task_that_was_drawn_twice_counts_once():
    """Every room twice, with equal outcomes: twice the episodes say no more than the rooms do."""
    outcomes = [1, 0, 1, 1, 0]
    once = [episode(k, f"room {k}", won) for k, won in enumerate(outcomes)]
    twice = [*once, *(episode(100 + k, f"room {k}", won) for k, won in enumerate(outcomes))]
    assert validation_metrics(twice)["validation/success_se"] == pytest.approx(
        validation_metrics(once)["validation/success_se"]
    )
    assert validation_metrics(twice)["validation/tasks"] == 5


def test_members_of_a_group_are_one_cluster():
    # group means 0.5 and 1: residual sums -0.5 and 0.5 around 0.75; sqrt(2 / 1 * 0.5) / 4
    episodes = [episode(0, "a", won, member) for member, won in enumerate([1, 0])]
    episodes += [episode(1, "b", 1, member) for member in range(2)]
    assert validation_metrics(episodes)["validation/success_se"] == pytest.approx(0.25)


def test_one_task_has_no_standard_error():
    assert math.isnan(validation_metrics([episode(0, "a", 1)])["validation/success_se"])
