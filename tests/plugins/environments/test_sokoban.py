import pickle

import attrs
import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.sokoban import Sokoban, SokobanEnv, SokobanLarger, SokobanSimple
from uncollapse.plugins.environments.sokoban_rules import move, parse
from uncollapse.plugins.environments.sokoban_solver import solve

ROOM = parse(["######", "#O__##", "#√X_##", "#_S__#", "#_X__#", "######"])
SMALL = parse(["#####", "#PXO#", "#####"])


def show(**params):
    return Sokoban(**params).show(ROOM)


def test_grid_view():
    assert show(view="grid") == "######\n#O__##\n#√X_##\n#_S__#\n#_X__#\n######"


def test_symbols():
    assert show(view="grid", symbols="W.GCBA@") == "WWWWWW\nWG..WW\nWCB.WW\nW.@..W\nW.B..W\nWWWWWW"


def test_coord_view():
    assert show(view="coord") == (
        "Board: 6 rows x 6 columns\nTargets: (1, 1)\nBoxes: (2, 2), (4, 2)\nBoxes on target: (2, 1)\n"
        "Player on target: (3, 2)"
    )
    assert Sokoban(view="coord").show(SMALL) == (
        "Board: 3 rows x 5 columns\nTargets: (1, 3)\nBoxes: (1, 2)\nPlayer: (1, 1)"
    )


def test_grid_coord_view_is_both():
    assert show() == f"Coordinates:\n{show(view='coord')}\nGrid Map:\n{show(view='grid')}"


def test_words_view():
    assert show(view="words") == ("Pr3 Pc2 Br2 Bc1 Br2 Bc2 Br4 Bc2 Tr1 Tc1 Tr2 Tc1 Tr3 Tc2 Wr1c4 Wr2c4")
    assert Sokoban(view="words").show(SMALL) == "Pr1 Pc1 Br1 Bc2 Tr1 Tc3"


def test_words_describe_the_whole_state():
    texts, keys = set(), set()
    for seed in range(100):
        env = Sokoban(size=5, view="words").make(seed)
        board = env.board
        for action in solve(board):
            texts.add(env.task.show(board))
            keys.add(board.key)
            board = move(board, action)
    assert len(texts) == len(keys) > 100


def test_instruction_has_the_symbols_in_use_and_the_bounds_of_this_board():
    text = Sokoban(symbols="W.GCBA@").instruction
    assert "W wall, . floor, G target, C box on target, B box, A player, @ player on target" in text
    assert "(0, 0) at the top left to (5, 5)" in text
    assert "to (4, 8) at the bottom right" in Sokoban(size=5, width=9).instruction
    assert "row" not in Sokoban(view="grid").instruction
    assert "# wall" not in Sokoban(view="coord").instruction
    assert Sokoban(view="words", size=7).instruction == (
        "Sokoban. Push every box B onto a target T. P is you, W a wall. The room spans r1 to r5 and c1 to c5."
    )


def test_presets():
    assert attrs.astuple(Sokoban())[:3] == (6, 1, "grid_coord")
    assert attrs.astuple(SokobanSimple())[:3] == (6, 1, "grid")
    assert attrs.astuple(SokobanLarger())[:3] == (8, 2, "grid")
    assert attrs.astuple(SokobanLarger(7, view="words"))[:3] == (7, 2, "words")
    assert SokobanSimple().make(3).key == Sokoban().make(3).key


def test_an_episode():
    env = SokobanEnv(Sokoban(view="grid"), parse(["######", "#P_XO#", "######"]))
    assert env.initial_observation() == "######\n#P_XO#\n######"
    wall, walk, push = env.step("Up"), env.step("right"), env.step(" RIGHT ")
    assert (wall.reward, walk.reward, push.reward) == pytest.approx((-0.1, -0.1, 10.9))
    assert wall.metrics == {"share_of_played_actions_effective": 0.0, "share_of_played_actions_accepted": 1.0}
    assert walk.metrics == {"share_of_played_actions_effective": 1.0, "share_of_played_actions_accepted": 1.0}
    assert (walk.done, walk.success) == (False, False)
    assert (push.done, push.success) == (True, True)
    assert push.observation == "######\n#__P√#\n######"
    with pytest.raises(RunError, match="the episode is over"):
        env.step("Left")


def test_max_steps_end_the_episode_without_success():
    env = Sokoban(max_steps=2).make(0)
    blocked = next(action for action in env.task.actions if move(env.board, action) is env.board)
    first, second = env.step(blocked), env.step(blocked)
    assert (first.done, second.done, second.success) == (False, True, False)
    with pytest.raises(RunError, match="the episode is over"):
        env.step(blocked)


def test_solving_with_the_last_step_is_success():
    env = SokobanEnv(Sokoban(max_steps=1), SMALL)
    step = env.step("Right")
    assert (step.done, step.success) == (True, True)


@pytest.mark.parametrize("action", ["", "Jump", "Up Down", "1"])
def test_unknown_actions_are_refused_and_change_nothing(action):
    env = Sokoban().make(0)
    before = pickle.dumps(env)
    with pytest.raises(ValueError, match="choose one of Up, Down, Left, Right"):
        env.step(action)
    assert pickle.dumps(env) == before


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"size": 2}, "size"),
        ({"size": 4}, "5 rows or 5 columns"),
        ({"size": 3, "width": 4}, "5 rows or 5 columns"),
        ({"boxes": 0}, "boxes"),
        ({"view": "picture"}, "view"),
        ({"split": "test"}, "split"),
        ({"symbols": "abc"}, "7 different visible characters"),
        ({"symbols": "abcdeff"}, "7 different visible characters"),
        ({"symbols": "abcdef "}, "7 different visible characters"),
        ({"max_solution": 0}, "max_solution"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_bad_parameters(params, text):
    with pytest.raises(ValueError, match=text):
        Sokoban(**params)
