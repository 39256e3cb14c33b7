"""Demonstrators play as well as can be played, and make mistakes as often as they are told to."""

import random
import re

import numpy
import pytest
from uncollapse.core.registry import registry
from uncollapse.plugins.environments.frozen_lake import lake
from uncollapse.plugins.environments.frozen_lake_demonstrator import PATIENCE, best_directions
from uncollapse.plugins.environments.frozen_lake_rules import slips


def create(name, **parameters):
    return registry().create("environment", name, **parameters)


def played(environment, seed, noise=0.0, most=3, turns=60):
    """Play an episode as demonstrated, and return its last step and the thoughts."""
    env, rng, thoughts = environment.make(seed), random.Random(seed), []
    for _ in range(turns):
        thought, actions = env.demonstrate(most, noise, rng)
        thoughts.append(thought)
        assert 1 <= len(actions) <= most
        for action in actions:
            step = env.step(action)
            if step.done:
                return step, thoughts
    return step, thoughts


@pytest.mark.parametrize("success_rate", [1.0, 0.8, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_no_other_step_on_the_lake_is_better(seed, success_rate):
    """The policy's exact values, by linear equations, are a fixed point of Bellman's optimality equation."""
    drawn = lake(4, 0.8, "all", seed)
    best, ends = best_directions(drawn, success_rate), drawn.holes | {drawn.goal}
    cells = range(drawn.size**2)

    def chances(cell, way):
        row = numpy.zeros(len(cells))
        for turn, chance in slips(success_rate):
            row[drawn.move(cell, (way + turn) % 4)] += chance
        return row

    moves = numpy.array([chances(cell, best[cell]) if cell not in ends else numpy.zeros(16) for cell in cells])
    at_goal = numpy.array([float(cell == drawn.goal) for cell in cells])
    values = numpy.linalg.solve(numpy.eye(16) - PATIENCE * moves, at_goal)
    for cell in set(cells) - ends:
        others = [PATIENCE * chances(cell, way) @ values for way in range(4)]
        assert values[cell] == pytest.approx(max(others), abs=1e-6)


def test_a_lake_without_slips_is_crossed_in_the_fewest_steps():
    environment = create("frozen_lake", success_rate=1.0, frozen=0.8)
    for seed in range(30):
        env = environment.make(seed)
        frontier, steps = {env.player}, 0
        while env.lake.goal not in frontier:
            frontier = {env.lake.move(cell, way) for cell in frontier for way in range(4)} - env.lake.holes
            steps += 1
        taken = 0
        while not env.done:
            _, actions = env.demonstrate(1, 0.0, random.Random(0))
            env.step(*actions)
            taken += 1
        assert taken == steps


def test_on_slippery_ice_it_reaches_the_goal_far_more_often_than_chance():
    environment = create("frozen_lake")
    right, random_steps = (
        sum(played(environment, seed, noise)[0].success for seed in range(200)) / 200 for noise in (0.0, 1.0)
    )
    assert right > 0.9
    assert random_steps < 0.6


def test_countdown_is_solved_with_every_step_worked_out():
    environment = create("countdown")
    for seed in range(200):
        step, (thought,) = played(environment, seed)
        assert step.success
        steps = thought.split(", ")
        for left, right in (each.split(" = ") for each in steps):
            a, operation, b = re.fullmatch(r"(-?\d+) (.) (-?\d+)", left).groups()
            a, b, value = int(a), int(b), int(right)
            assert {"+": a + b == value, "-": a - b == value, "*": a * b == value, "/": b * value == a}[operation]
        puzzle = environment.make(seed).puzzle
        assert len(steps) == len(puzzle.numbers) - 1
        assert steps[-1].endswith(f" = {puzzle.target}")


def test_mistakes_in_countdown_use_the_numbers_and_miss_the_target():
    environment = create("countdown")
    rewards = [played(environment, seed, noise=1.0)[0].reward for seed in range(200)]
    assert set(rewards) <= {0.1, 1.0}
    assert rewards.count(1.0) < 40


def test_word_problems_are_answered_with_their_calculation():
    environment = create("dataset", path="arithmetic")
    for seed in range(100):
        step, (thought,) = played(environment, seed)
        assert step.success
        assert re.fullmatch(r"\d+ [+*] \d+( - \d+)? = \d+", thought)
    wrong = [played(environment, seed, noise=1.0)[0].success for seed in range(100)]
    assert 0 < sum(wrong) < 30


def test_a_share_of_the_actions_are_mistakes():
    environment = create("frozen_lake", success_rate=1.0)
    share = sum(
        environment.make(seed).demonstrate(1, 0.5, rng) != environment.make(seed).demonstrate(1, 0.0, rng)
        for rng in [random.Random(0)]
        for seed in range(400)
    )
    # a random step is the best one in a quarter of all cases
    assert 0.3 < share / 400 < 0.45
