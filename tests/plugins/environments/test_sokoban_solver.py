import pytest
from uncollapse.plugins.environments import sokoban_rules as rules
from uncollapse.plugins.environments.sokoban_rooms import room
from uncollapse.plugins.environments.sokoban_solver import positions_by_distance, solve

# Rooms of RAGEN by seed, with a shortest solution (1 Up, 2 Down, 3 Left, 4 Right).
RAGEN_ROOMS = {
    10000: ("######/#O####/#__###/#X_###/#_P_##/######", [3, 1, 1]),
    10001: ("######/#____#/#_OX_#/#_#P_#/######/######", [4, 1, 3]),
    10002: ("######/######/#P####/#X__##/#O__##/######", [2]),
    123: ("######/######/#O####/#XP###/#__###/######", [2, 3, 1]),
    124: ("######/######/#O####/#X_###/#P####/######", [1]),
}


def play(board, actions):
    """The boards and rewards after each action."""
    boards, rewards = [board], []
    for action in actions:
        boards.append(rules.move(boards[-1], action))
        rewards.append(rules.reward(boards[-2], boards[-1]))
    return boards, rewards


@pytest.mark.parametrize("seed", RAGEN_ROOMS)
def test_rooms_of_ragen(seed):
    rows, numbers = RAGEN_ROOMS[seed]
    board = rules.parse(rows.split("/"))
    listed = tuple(rules.ACTIONS[number - 1] for number in numbers)
    for actions in (listed, solve(board, 10)):
        boards, rewards = play(board, actions)
        assert len(actions) == len(numbers)
        assert [step.solved for step in boards] == [False] * len(numbers) + [True]
        assert rewards == pytest.approx([-0.1] * (len(numbers) - 1) + [10.9])


def test_the_bound_is_inclusive():
    board = rules.parse(RAGEN_ROOMS[123][0].split("/"))
    assert solve(board, 2) is None
    assert len(solve(board, 3)) == 3


def test_a_solved_board_needs_nothing_and_a_dead_one_has_no_solution():
    assert solve(rules.parse(["#####", "#P√_#", "#####"])) == ()
    assert solve(rules.parse(["######", "#XP_O#", "######"])) is None


def test_two_boxes():
    board = rules.parse(["#######", "#OX_XO#", "#__P__#", "#######"])
    actions = solve(board)
    assert play(board, actions)[0][-1].solved
    # up, left (push), right, right (push)
    assert len(actions) == 4


@pytest.mark.parametrize(("size", "boxes", "seed"), [(5, 1, 0), (6, 1, 1), (6, 2, 2)])
def test_playing_backwards_gives_the_length_of_the_shortest_solution_of_every_position(size, boxes, seed):
    board = room(size, size, boxes, 10, "all", seed)
    layers = positions_by_distance(size, board.floor, board.targets, 1000, 10**6)
    distance = {position: length for length, layer in enumerate(layers) for position in layer}
    solvable = 0
    for player in rules.cells(board.floor):
        for boxes_at in bit_sets(board.floor & ~(1 << player), boxes):
            start = rules.Board(size, size, board.floor, board.targets, boxes_at, player)
            actions = solve(start, 1000)
            solvable += actions is not None
            assert (None if actions is None else len(actions)) == distance.get((player, boxes_at))
    assert solvable == len(distance)


def bit_sets(free, count):
    cells = list(rules.cells(free))
    if count == 1:
        return [1 << cell for cell in cells]
    return [1 << a | 1 << b for i, a in enumerate(cells) for b in cells[:i]]


def test_the_backward_search_stops_where_it_is_told():
    board = room(6, 6, 1, 10, "all", 1)
    every = positions_by_distance(6, board.floor, board.targets, 1000, 10**6)
    assert positions_by_distance(6, board.floor, board.targets, 3, 10**6) == every[:4]
    bounded = positions_by_distance(6, board.floor, board.targets, 1000, len(every[0]) + 1)
    assert bounded == every[:2]
