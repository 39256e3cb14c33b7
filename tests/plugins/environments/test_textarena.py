"""The environment textarena plays games of the package of that name, alone or against a random opponent."""

import importlib.util
import pickle
import random

import pytest
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.testing import check

installed = pytest.mark.skipif(importlib.util.find_spec("textarena") is None, reason="needs textarena")
ACCEPTED = "share_of_played_actions_accepted"


def create(game, **parameters):
    return registry().create("environment", "textarena", game, **parameters)


def play(env, moves):
    """All that an episode says until it ends."""
    said = [env.initial_observation()]
    for move in moves:
        step = env.step(move)
        said.append((step.observation, step.reward, step.success))
        if step.done:
            break
    return said


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        "uncollapse.plugins.environments.packages.textarena.importlib.util.find_spec", lambda name: None
    )
    with pytest.raises(MissingExtraError) as caught:
        create("TicTacToe-v0")
    assert "pip install 'uncollapse[textarena]'" in str(caught.value)


@installed
@pytest.mark.parametrize(
    "spelling", ["GuessTheNumber-v0", "FrozenLake-v0-random, split=train", "TicTacToe-v0, player=1", "KuhnPoker-v0"]
)
def test_the_laws_of_environments_hold(spelling):
    assert check("environment", f"textarena({spelling})") == []


@installed
def test_a_number_is_found_by_halving():
    env = create("GuessTheNumber-v0", settings={"max_number": 7}).make(3)
    assert "between 1 and 7 within 10 turns" in env.initial_observation()
    low, high = 1, 7
    for _ in range(3):
        guess = (low + high) // 2
        step = env.step(str(guess))
        if step.done:
            break
        assert step.reward == 0.0
        low, high = (guess + 1, high) if step.observation == "The target number is higher." else (low, guess - 1)
    assert (step.reward, step.done, step.success) == (1.0, True, True)
    with pytest.raises(RunError, match="the episode is over"):
        env.step("1")


@installed
def test_a_second_refused_move_in_turn_ends_the_game():
    env = create("GuessTheNumber-v0").make(3)
    steps = [env.step(text) for text in ("[99]", "[12]", "[12]", "[12]")]
    assert [step.metrics[ACCEPTED] for step in steps] == [0.0, 1.0, 0.0, 0.0]
    assert [step.done for step in steps] == [False, False, False, True]
    assert not steps[-1].success


@installed
def test_the_opponent_plays_moves_that_the_game_accepts_until_somebody_wins():
    results = []
    for member in range(12):
        env = create("TicTacToe-v0").make(5, member)
        open_cells = list(range(9))
        while not env.done:
            board = env.game.state.game_state["board"]
            open_cells = [cell for cell in range(9) if board[cell // 3][cell % 3] == ""]
            step = env.step(f"[{open_cells[0]}]")
        assert not env.game.state.game_info[1]["invalid_move"]
        results.append((step.reward, step.success))
    assert set(results) <= {(1.0, True), (0.0, False), (-1.0, False)}
    assert (1.0, True) in results


@installed
def test_the_second_player_sees_the_first_move_and_members_meet_other_replies():
    games = [play(create("TicTacToe-v0", player=1).make(5, member), ["[0]", "[1]"]) for member in range(6)]
    assert [play(create("TicTacToe-v0", player=1).make(5, member), ["[0]", "[1]"]) for member in range(6)] == games
    assert len({said[0] for said in games}) == 1
    assert "Player 0 placed their symbol (O) in cell" in games[0][0]
    assert len({repr(said[1:]) for said in games}) > 2


@installed
def test_the_random_numbers_of_the_program_are_left_alone():
    state = random.getstate()
    play(create("Minesweeper-v0").make(1), ["[0 0]", "[1 1]"])
    assert random.getstate() == state


@installed
def test_train_and_validation_share_no_start():
    train, validation = (
        {create("FrozenLake-v0-random", split=split).make(seed).key for seed in range(60)}
        for split in ("train", "validation")
    )
    assert min(len(train), len(validation)) > 5
    assert not train & validation


@installed
def test_an_episode_is_picklable():
    env = create("TicTacToe-v0").make(1)
    assert play(pickle.loads(pickle.dumps(env)), ["[0]", "[1]"]) == play(env, ["[0]", "[1]"])


@installed
def test_a_text_on_which_the_game_fails_changes_nothing(monkeypatch):
    env = create("GuessTheNumber-v0").make(3)
    monkeypatch.setattr(type(env.game), "step", lambda self, action: self.missing)
    step = env.step("[3]")
    assert (step.observation, step.reward, step.done) == ("The game cannot read this text.", 0.0, False)
    monkeypatch.undo()
    assert env.step("[3]").metrics == {ACCEPTED: 1.0}


@installed
@pytest.mark.parametrize(
    ("game", "parameters", "message"),
    [
        ("GuessTheNumbr-v0", {}, "did you mean 'GuessTheNumber-v0'?"),
        ("TicTacToe-v0-train", {}, "did you mean 'TicTacToe-v0'?"),
        ("GuessTheNumber-v0", {"settings": {"maxi": 3}}, "unexpected keyword argument 'maxi'"),
        ("GuessTheNumber-v0", {"split": "train"}, "all seeds start alike"),
        ("GuessTheNumber-v0", {"opponent": ("[1]",)}, "does not start with two players"),
        ("GuessTheNumber-v0", {"player": 1}, "player 1 needs an opponent"),
        ("Nim-v0", {}, "give the opponent's texts"),
        ("SecretMafia-v0", {}, "does not start with one player"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_reason(game, parameters, message):
    with pytest.raises(RequestError) as caught:
        create(game, **parameters)
    assert message in str(caught.value)


@installed
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_game_of_one_player_fails_on_any_text():
    games = (
        "2048-v0",
        "Bandit-v0",
        "Blackjack-v0",
        "FrozenLake-v0",
        "GuessTheNumber-v0",
        "LightsOut-v0",
        "Mastermind-v0",
    )
    for game in (*games, "Minesweeper-v0", "PegJump-v0", "RushHour-v0", "Secretary-v0", "Sokoban-v0", "Sudoku-v0"):
        for texts in (
            ["[x]", "[]"],
            ["", "ü [1 2 3]"],
            ["[9999999999 -1]", "[up]"],
            ["[0 0]", "[reveal 0 0]", "[1 1 1]"],
        ):
            assert len(play(create(game).make(0), texts)) > 1, game
