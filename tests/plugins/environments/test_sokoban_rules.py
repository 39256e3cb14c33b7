import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.environments import sokoban_rules as rules
from uncollapse.plugins.environments.sokoban_rooms import room


def corridor(middle):
    """A board of one row of cells."""
    wall = "#" * len(middle)
    return rules.parse([wall, middle, wall])


def moved(middle, action):
    before = corridor(middle)
    after = rules.move(before, action)
    return rules.draw(after).split("\n")[1], rules.reward(before, after)


@pytest.mark.parametrize(
    ("before", "action", "after", "reward"),
    [
        ("#P__XO#", "Right", "#_P_XO#", -0.1),  # walk
        ("#P__XO#", "Left", "#P__XO#", -0.1),  # into a wall
        ("#P__XO#", "Up", "#P__XO#", -0.1),
        ("#P__XO#", "Down", "#P__XO#", -0.1),
        ("#_PX_O#", "Right", "#__PXO#", -0.1),  # push onto the floor
        ("#O_XP_#", "Right", "#O_X_P#", -0.1),  # away from the box: nothing is pulled
        ("#O_XP_#", "Left", "#OXP__#", -0.1),
        ("#OXP__#", "Left", "#√P___#", 10.9),  # the last box onto a target
        ("#OXP_OX_#", "Left", "#√P__OX_#", 0.9),  # not the last one
        ("#_√P__#", "Left", "#XS___#", -1.1),  # off a target, the player onto it
        ("#XP__O#", "Left", "#XP__O#", -0.1),  # a wall behind the box
        ("#OXXPO#", "Left", "#OXXPO#", -0.1),  # a box behind the box
        ("#X√P_O_#", "Left", "#X√P_O_#", -0.1),  # a box on a target behind it
        ("#S_X#", "Right", "#OPX#", -0.1),  # off the target that the player covered
        ("#O√P__X_#", "Left", "#√S___X_#", -0.1),  # from one target to another: -1 + 1
    ],
)
def test_move_and_reward(before, action, after, reward):
    row, earned = moved(before, action)
    assert row == after
    assert earned == pytest.approx(reward)


def test_up_and_down():
    board = rules.parse(["###", "#P#", "#X#", "#O#", "###"])
    pushed = rules.move(board, "Down")
    assert rules.draw(pushed) == "###\n#_#\n#P#\n#√#\n###"
    assert pushed.solved
    assert rules.draw(rules.move(pushed, "Up")) == "###\n#P#\n#_#\n#√#\n###"


def test_a_move_that_does_nothing_returns_the_same_board():
    board = corridor("#P_XO#")
    assert rules.move(board, "Up") is board
    assert rules.move(board, "Right") is not board


def test_codes_are_those_of_gym_sokoban():
    board = rules.parse(["#########", "#P_O√XOX#", "#########"])
    assert [board.code(9 + cell) for cell in range(9)] == [0, 5, 1, 2, 3, 4, 2, 4, 0]
    assert rules.parse(["#####", "#S_X#", "#####"]).code(6) == rules.PLAYER_ON_TARGET == 6


def test_key_is_readable_and_parses_back():
    board = corridor("#P_XO#")
    assert board.key == "######/#P_XO#/######"
    assert rules.parse(board.key.split("/")) == board


@pytest.mark.parametrize(
    "rows",
    [
        ["####", "#P#", "####"],  # ragged
        ["####", "#P?#", "####"],  # unknown symbol
        ["####", "#__#", "####"],  # no player
        ["####", "#PP#", "####"],  # two players
        ["#####", "#PX_#", "#####"],  # no target
        ["#####", "#PXO_", "#####"],  # open border
    ],
)
def test_parse_refuses(rows):
    with pytest.raises(ValueError, match=r"rows must|a board needs|outermost"):
        rules.parse(rows)


@given(seed=st.integers(0, 500), boxes=st.integers(1, 3), actions=st.lists(st.sampled_from(rules.ACTIONS), max_size=40))
def test_random_play_conserves_the_room_and_adds_up(seed, boxes, actions):
    board = first = room(7, 7, boxes, 10, "all", seed)
    total, solved = 0.0, 0
    for action in actions:
        after = rules.move(board, action)
        assert (after.floor, after.targets) == (first.floor, first.targets)
        assert after.boxes.bit_count() == boxes
        assert not after.boxes & ~after.floor, "a box is in a wall"
        assert not after.boxes >> after.player & 1, "the player is in a box"
        assert after.floor >> after.player & 1, "the player is in a wall"
        assert (after is board) == (after == board)
        total += rules.reward(board, after)
        board, solved = after, solved + after.solved
    on_target = (board.boxes & board.targets).bit_count()  # none at the start
    assert total == pytest.approx(-0.1 * len(actions) + on_target + 10 * solved)
    assert rules.parse(board.key.split("/")) == board
