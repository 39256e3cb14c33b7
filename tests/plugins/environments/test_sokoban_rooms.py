import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.common import split_of
from uncollapse.plugins.environments.sokoban_rooms import room
from uncollapse.plugins.environments.sokoban_rules import interior
from uncollapse.plugins.environments.sokoban_solver import solve


@pytest.mark.parametrize(
    ("height", "width", "boxes", "max_solution", "rooms"),
    [(5, 5, 1, 10, 100), (6, 6, 1, 10, 200), (6, 6, 1, 3, 50), (8, 8, 2, 10, 30), (3, 9, 1, 8, 20), (9, 5, 2, 12, 20)],
)
def test_every_room_is_solvable_within_the_bound_and_not_trivial(height, width, boxes, max_solution, rooms):
    lengths = set()
    for seed in range(rooms):
        board = room(height, width, boxes, max_solution, "all", seed)
        assert not board.floor & ~interior(height, width), "the border is a wall"
        assert board.boxes.bit_count() == board.targets.bit_count() == boxes
        assert not board.boxes & board.targets
        actions = solve(board, max_solution)
        assert actions, f"seed {seed} has no solution of 1 to {max_solution} actions"
        lengths.add(len(actions))
    assert len(lengths) > 1
    assert max(lengths) <= max_solution


def test_the_floor_is_connected():
    for seed in range(50):
        board = room(8, 8, 2, 10, "all", seed)
        reached, grown = 0, 1 << board.player
        while grown != reached:
            reached = grown
            grown |= (reached << 1 | reached >> 1 | reached << 8 | reached >> 8) & board.floor
        assert reached == board.floor


def test_solutions_are_neither_all_short_nor_all_long():
    lengths = [len(solve(room(6, 6, 1, 10, "all", seed))) for seed in range(300)]
    assert 3.5 < sum(lengths) / 300 < 5  # gym-sokoban: 4.2 in the mean
    assert {1, 2, 3, 4, 5, 6, 7, 8} <= set(lengths)


def test_a_group_asks_once():
    assert room(6, 6, 1, 10, "all", 7) is room(6, 6, 1, 10, "all", 7)
    assert room(6, 6, 1, 10, "all", 7) != room(6, 6, 1, 10, "all", 8)


def test_rooms_are_pinned():
    """A room of a seed is part of what a run is: a change of this test changes every experiment."""
    assert room(6, 6, 1, 10, "all", 0).key == "######/#___##/#_XS##/#__###/#__###/######"
    assert room(8, 8, 2, 10, "validation", 123).key == (
        "########/####___#/#__#P_O#/#_OX_X_#/#_____##/########/########/########"
    )


def test_splits_are_disjoint_by_content():
    train = {room(5, 5, 1, 10, "train", seed).key for seed in range(400)}
    validation = {room(5, 5, 1, 10, "validation", seed).key for seed in range(400)}
    both = {room(5, 5, 1, 10, "all", seed).key for seed in range(400)}
    assert not train & validation
    assert {split_of(key) for key in train} == {"train"}
    assert {split_of(key) for key in validation} == {"validation"}
    assert both & train
    assert both & validation
    assert len(validation) > 50


def test_a_room_of_all_that_lies_in_a_split_is_the_room_of_that_split():
    for seed in range(30):
        board = room(6, 6, 1, 10, "all", seed)
        assert room(6, 6, 1, 10, split_of(board.key), seed) == board


def test_impossible_parameters_are_an_error():
    with pytest.raises(RunError, match="no task was found"):
        room(5, 3, 2, 10, "all", 0)
