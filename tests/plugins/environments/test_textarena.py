"""The environment textarena plays games of the package of that name, alone, against chance or against a model."""

import importlib.util
import os
import pickle
import random
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import uncollapse
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.compose.config import compose
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.environments.packages.textarena.opponents import TEXTS, move_in
from uncollapse.plugins.models import loaded as models_here
from uncollapse.testing import check

installed = pytest.mark.skipif(importlib.util.find_spec("textarena") is None, reason="needs textarena")
before_312 = pytest.mark.skipif(sys.version_info >= (3, 12), reason="the game can be made")
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
        "uncollapse.plugins.environments.packages.textarena.environment.importlib.util.find_spec", lambda name: None
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
        ("GuessTheNumber-v0", {"opponent": ("[1]",)}, "is for one player: leave out opponent"),
        ("GuessTheNumber-v0", {"opponent_model": "start"}, "is for one player: leave out opponent_model"),
        ("GuessTheNumber-v0", {"player": 1}, "is for one player: leave out player"),
        ("TicTacToe-v0", {"opponent": ("[1]",), "opponent_model": "start"}, "not both"),
        ("Battleship-v0", {}, "a model, opponent_model=PATH"),
        ("SecretMafia-v0", {}, "neither for one player nor for two: AssertionError: Player count must be between 5"),
        ("ScorableGames-v0", {}, "this release of textarena lacks files of the game"),
        pytest.param("Chess-v0", {}, "the game needs Python 3.12, and this is 3.11.", marks=before_312),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_reason(game, parameters, message):
    with pytest.raises(RequestError) as caught:
        create(game, **parameters)
    assert message in str(caught.value)


@installed
@pytest.mark.parametrize("game", ["Countdown-v0", "Cryptarithm-v0", "Slitherlink-v0"])
def test_a_refused_move_has_a_reward_also_where_the_game_mixes_it_up_with_the_reason(game):
    steps = [env.step("hello") for env in [create(game).make(0)] for _ in range(2)]
    assert [(step.done, step.success, type(step.reward)) for step in steps] == [
        (False, False, float),
        (True, False, float),
    ]
    assert 0 <= steps[1].reward < 1
    assert "format" in steps[1].observation


@installed
def test_a_game_that_draws_its_task_when_it_is_made_has_another_one_for_each_seed():
    """Where the numbers are not given, Countdown draws them before it is told its seed."""
    game = create("Countdown-v0", settings={"numbers": None, "target": None})
    first = [game.make(seed).initial_observation() for seed in range(5)]
    random.seed(7)
    assert [game.make(seed, member=2).initial_observation() for seed in range(5)] == first
    assert len(set(first)) == 5


@installed
@pytest.mark.slow
def test_a_game_is_the_same_in_every_process():
    code = (
        "from uncollapse.core.registry import registry\n"
        "make = registry().create('environment', 'textarena', 'RushHour-v0').make\n"
        "print([make(seed).initial_observation() for seed in range(3)])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        for seed in "12"
    ]
    assert said[0].stdout == said[1].stdout
    assert {one.stderr for one in said} == {""}
    assert len(set(eval(said[0].stdout))) == 3


@installed
@pytest.mark.parametrize("name", sorted(TEXTS))
def test_a_random_opponent_plays_only_what_the_game_accepts(name):
    env = create(f"{name}-v0").make(3)
    chance = random.Random(0)
    for _ in range(60 if len(TEXTS[name]) < 40 else 6):
        texts = chance.sample(TEXTS[name], len(TEXTS[name]))
        accepted = next(text for text in texts if pickle.loads(pickle.dumps(env)).step(text).metrics[ACCEPTED] == 1.0)
        if env.step(accepted).done:
            break
    assert not env.game.state.game_info[1]["invalid_move"]
    assert env.done or len(TEXTS[name]) >= 40 or name == "PigDice"  # which has many turns


# --- a model that plays the opponent ---

CELLS = tuple(f"[{cell}]" for cell in range(9))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model that can say nothing but the cells of TicTacToe."""
    path = tmp_path_factory.mktemp("opponent")
    vocabulary = ("<pad>", "<eos>", "<unk>", *CELLS, "Player", "O", "X", "|", "board", "turn", "0")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=300,
        initializer_range=1.0,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:3] = 0
        model.lm_head.weight[12:] = 0
    model.save_pretrained(path)
    return path


@pytest.fixture
def against(folder, tmp_path, monkeypatch):
    """Makes TicTacToe against the model, which has said nothing yet."""
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))

    def make(**given):
        return create("TicTacToe-v0", opponent_model=str(folder), opponent_tokens=1, opponent_device="cpu", **given)

    return make


def alone(folder, texts):
    """What transformers generates after these texts."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("\n".join(texts), return_tensors="pt", add_special_tokens=False)["input_ids"]
    return tokenizer.decode(model.generate(ids, max_new_tokens=1, do_sample=False)[0, ids.shape[1] :], True)


@installed
def test_a_frozen_model_reads_its_side_of_the_game_and_plays_what_it_says(against, folder):
    env = against().make(1)
    env.step("[4]")
    (told, reply), *further = env.talk
    assert "You are Player 1 in Tic Tac Toe" in told
    assert "Player 0 placed their symbol (O) in cell 4" in told
    assert reply == alone(folder, [told])
    assert reply in CELLS
    if not further:  # the cell was free
        cell = int(reply[1:-1])
        assert env.game.state.game_state["board"][cell // 3][cell % 3] == "X"


@installed
def test_a_frozen_model_that_repeats_itself_loses(against):
    results = set()
    for first in CELLS:
        env, taken = against().make(0), []
        step = env.step(first)
        while not step.done:
            board = env.game.state.game_state["board"]
            free = [cell for cell in range(9) if board[cell // 3][cell % 3] == ""]
            step = env.step(f"[{free[-1]}]")
        taken = [move for _, move in env.talk]
        results.add((step.reward, step.success, len(set(taken)) < len(taken)))
    assert (1.0, True, True) in results
    assert results <= {(reward, reward == 1, again) for reward in (-1.0, 0.0, 1.0) for again in (True, False)}


@installed
def test_members_meet_the_same_model_and_its_replies_are_kept(against, monkeypatch):
    games = [play(against().make(2, member), ["[0]", "[1]", "[2]"]) for member in range(3)]
    assert games[0] == games[1] == games[2]

    def gone(*arguments):
        raise AssertionError("asked again")

    monkeypatch.setattr(models_here.LoadedModel, "ask", gone)
    assert play(against().make(2), ["[0]", "[1]", "[2]"]) == games[0]


@installed
def test_games_side_by_side_are_answered_together_as_they_are_in_turn(against, folder):
    world = against()
    assert world.concurrency == 32
    moves = [[CELLS[(start + 2 * turn) % 9] for turn in range(4)] for start in range(9)]
    loaded = models_here.loaded(str(folder), "cpu", 32, "an opponent", "opponent_model")
    loaded.sizes.clear()
    with ThreadPoolExecutor(9) as threads:
        together = list(threads.map(lambda texts: play(world.make(5), texts), moves))
    assert max(loaded.sizes) > 1
    assert together == [play(world.make(5), texts) for texts in moves]


@installed
def test_a_model_that_begins_is_asked_before_the_first_observation(against):
    world = against(player=1)
    assert "Player 0 placed their symbol" in world.make(0).initial_observation()
    with pytest.raises(RequestError, match="all seeds start alike"):
        against(player=1, split="train")


@installed
def test_the_laws_of_environments_hold_against_a_model(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    spelling = f"TicTacToe-v0, opponent_model={folder}, opponent_tokens=1, opponent_device=cpu"
    assert check("environment", f"textarena({spelling})") == []


@installed
def test_a_long_game_is_shortened_and_one_without_room_is_an_error(against, folder):
    from uncollapse.plugins.environments.packages.textarena.opponents import FrozenModel

    model = FrozenModel(str(folder), 1, "cpu", 32)
    against()  # sets the cache
    earlier = [(f"board {'O ' * 60}", "[1]"), (f"board {'X ' * 120}", "[2]"), (f"board {'| ' * 120}", "[3]")]
    told = "turn " * 20
    kept = [*earlier[0], *earlier[2], told]
    assert model.reply("TicTacToe-v0", earlier, told) == alone(folder, kept)
    with pytest.raises(RunError, match="leaves no room for 1 tokens in a context of 300"):
        model.reply("TicTacToe-v0", [], "turn " * 400)


@installed
def test_only_a_run_knows_its_start_model():
    world = create("TicTacToe-v0", opponent_model="start")
    with pytest.raises(RequestError, match="only a run knows its start model"):
        world.make(0)


@installed
def test_an_opponent_that_is_not_there_is_refused_before_the_first_move(bandit, tmp_path):
    game = {"name": "textarena", "game": "TicTacToe-v0", "opponent_model": "./nowhere"}
    with pytest.raises(CompositionError, match=r"there is no directory \./nowhere of a model, which opponent_model"):
        compose({**bandit, "environment": game, "dialogue": "plain", "validation": {"groups": 4, "every": 2}})
    with pytest.raises(RequestError, match=r"the model .* of an opponent cannot be loaded"):
        create("TicTacToe-v0", opponent_model=str(tmp_path)).make(0)


@installed
@pytest.mark.slow
def test_a_run_plays_against_its_start_model(bandit, tmp_path, monkeypatch):
    asked = []
    answer = models_here.LoadedModel.ask

    def ask(self, texts, max_tokens):
        asked.append((self.model.name_or_path, len(texts)))
        return answer(self, texts, max_tokens)

    monkeypatch.setattr(models_here.LoadedModel, "ask", ask)
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path / "cache"))
    game = {"name": "textarena", "game": "TicTacToe-v0", "opponent_model": "start", "opponent_tokens": 2, "player": 1}
    experiment = {
        **bandit,
        "environment": {**game, "opponent_device": "cpu"},
        "dialogue": "plain",
        "rollout": {**bandit["rollout"], "groups": 2, "max_context": 1500},
        "validation": {"groups": 2, "every": 1, "environment": {}},
        "trainer": {**bandit["trainer"], "steps": 1, "mini_batch": 4},
    }
    uncollapse.train(experiment, tmp_path / "run")
    assert {path for path, _ in asked} == {bandit["model"]["path"]}
    assert (tmp_path / "run" / "status.json").exists()


@pytest.mark.parametrize(
    ("reply", "move"),
    [
        ("I take [4].", "I take [4]."),
        ("<think>[1] or [2]?</think>\n[2]", "[2]"),
        ("<think>it goes on", ""),
        ("so <answer>[3]</answer>", "[3]"),
        ("<answer>[3]</answer><answer>[4]</answer>", "<answer>[3]</answer><answer>[4]</answer>"),
    ],
)
def test_the_move_is_what_stands_after_the_thought(reply, move):
    assert move_in(reply) == move


REFUSED = {
    "needs word lists of nltk": "words",
    "language model of the service OpenRouter": "service",
    "needs Python 3.12": "python",
    "lacks files": "files",
    "neither for one player nor for two": "more",
}


def kind_of(game):
    """How a game can be played here; the reason why it cannot."""
    try:
        table = create(game).table
    except RequestError as error:
        if "the game needs an opponent" in error.what:
            return "two, with texts or a model"
        return next(kind for words, kind in REFUSED.items() if words in error.what)
    return "two" if table.players == 2 else "one"


COUNTS = {
    "one": 57,
    "two": 37,
    "two, with texts or a model": 73,
    "words": 23,
    "service": 7,
    "python": 10,
    "files": 12,
    "more": 18,
}
"""Games of release 0.7.4 in Python 3.11, without a network, by the kind that the guide names."""


@installed
def test_the_guide_tells_the_counts():
    guide = (Path(uncollapse.__file__).parent / "docs" / "environments.md").read_text("utf-8")
    rows = [line.split("|") for line in guide.partition("| games of 0.7.4 |")[2].splitlines()[2:10]]
    assert [int(row[1].strip()) for row in rows] == list(COUNTS.values())


@installed
@before_312
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_games_that_can_be_played_are_those_that_the_guide_counts(monkeypatch, capfd):
    from textarena.envs.registration import ENV_REGISTRY
    from uncollapse.plugins.environments.packages.textarena import games as textarena_games

    def refuse(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("nltk.data.path", [])
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    for cache in (textarena_games._made, textarena_games.opened, textarena_games.players_of):
        cache.cache_clear()
    games = [name for name in ENV_REGISTRY if f"{name}-raw" in ENV_REGISTRY]
    kinds = [kind_of(game) for game in games]
    assert (len(ENV_REGISTRY), len(games)) == (712, 237)
    assert {kind: kinds.count(kind) for kind in kinds} == COUNTS
    assert capfd.readouterr() == ("", "")  # nltk tells of failed downloads, and games greet


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
