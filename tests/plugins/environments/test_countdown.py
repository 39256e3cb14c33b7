import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.arithmetic import parse
from uncollapse.plugins.environments.countdown import Countdown, CountdownEnv, Puzzle

PUZZLE = Puzzle((1, 2, 3), 9, "(1 + 2) * 3")


@pytest.mark.parametrize(
    ("answer", "reward", "valid"),
    [
        ("(1+2)*3", 1.0, 1.0),
        (" 3 * (2 + 1)\n", 1.0, 1.0),
        ("1+2*3", 0.1, 1.0),
        ("1/(3-2-1)", 0.0, 0.0),  # 1 is used twice
        ("9", 0.0, 0.0),
        ("3*3", 0.0, 0.0),
        ("1*3*3", 0.0, 0.0),
        ("(1+2)*3=9", 0.0, 0.0),
        ("the answer is 9", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_rewards(answer, reward, valid):
    step = CountdownEnv(PUZZLE).step(answer)
    assert step.reward == reward
    assert step.done
    assert step.success == (reward == 1.0)
    assert step.metrics == {"share_of_played_actions_accepted": valid}


def test_division_by_zero_uses_the_numbers_and_is_wrong():
    step = CountdownEnv(Puzzle((2, 2, 5), 9, "5 + 2 + 2")).step("5/(2-2)")
    assert step.reward == 0.1
    assert step.observation == "The expression is undefined, not 9."


def test_fractions_are_exact():
    assert CountdownEnv(Puzzle((1, 3, 3), 1, "1 / 3 * 3")).step("1/3*3").success
    assert CountdownEnv(Puzzle((8, 3, 8, 3), 24, "8/(3-8/3)")).step("8/(3-8/3)").success


def test_observation_and_the_end():
    env = CountdownEnv(PUZZLE)
    assert env.initial_observation() == "Numbers: 1 2 3\nTarget: 9"
    assert env.step("1+2+3").observation == "The expression is 6, not 9."
    with pytest.raises(RunError, match="the episode is over"):
        env.step("(1+2)*3")


@given(seed=st.integers(), count=st.integers(2, 6))
def test_every_puzzle_is_solved_by_its_solution(seed, count):
    env = Countdown(min_numbers=count, max_numbers=count).make(seed)
    puzzle = env.puzzle
    assert len(puzzle.numbers) == count
    assert all(1 <= number <= 99 for number in puzzle.numbers)
    assert 1 <= puzzle.target <= 99
    assert puzzle.target not in puzzle.numbers
    assert parse(puzzle.solution).value == puzzle.target
    assert env.step(puzzle.solution).success


def test_three_or_four_numbers():
    assert {len(Countdown().make(seed).puzzle.numbers) for seed in range(50)} == {3, 4}


def test_the_key_ignores_the_order_of_the_numbers():
    assert Puzzle((3, 1, 2), 9, "").key == Puzzle((1, 2, 3), 9, "").key == "1 2 3 -> 9"
    assert PUZZLE.key != Puzzle((1, 2, 3), 8, "").key


def test_splits_are_disjoint_by_content():
    def keys(split):
        environment = Countdown(min_numbers=2, max_numbers=3, largest=10, split=split)
        return {environment.make(seed).key for seed in range(300)}

    train, validation = keys("train"), keys("validation")
    assert not train & validation
    assert len(validation) > 30


def test_pinned():
    assert Countdown().make(0).initial_observation() == "Numbers: 21 18 39\nTarget: 36"


def test_bad_parameters():
    with pytest.raises(ValueError, match="larger than max_numbers"):
        Countdown(min_numbers=4, max_numbers=3)
    with pytest.raises(ValueError, match="min_numbers"):
        Countdown(min_numbers=1)
    with pytest.raises(ValueError, match="max_numbers"):
        Countdown(max_numbers=7)
    with pytest.raises(ValueError, match="largest"):
        Countdown(largest=5)
