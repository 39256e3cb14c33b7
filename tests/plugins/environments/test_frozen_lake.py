import pytest
from uncollapse.core.errors import RunError
from uncollapse.plugins.environments.common import seeded
from uncollapse.plugins.environments.frozen_lake import FrozenLake, FrozenLakeEnv, Lake

LAKE = Lake(3, start=0, goal=8, holes=frozenset({4, 5}))  # P__ / _OO / __G


def episode(**params):
    return FrozenLakeEnv(FrozenLake(size=3, **params), LAKE, seeded(0), LAKE.start)


def test_views():
    assert episode(view="grid").initial_observation() == "P__\n_OO\n__G"
    coord = "Start: (0, 0)\nGoal: (2, 2)\nPlayer: (0, 0)\nHoles: (1, 1), (1, 2)"
    assert episode(view="coord").initial_observation() == coord
    assert episode(view="grid_coord").initial_observation() == f"Coordinates:\n{coord}\nGrid Map:\nP__\n_OO\n__G"


def test_no_holes_no_line():
    assert Lake(2, 0, 3, frozenset()).coord(1) == "Start: (0, 0)\nGoal: (1, 1)\nPlayer: (0, 1)"


def test_reaching_the_goal():
    env = episode(success_rate=1.0)
    steps = [env.step(action) for action in ("up", "Down", "DOWN", "Right", "Right")]
    assert [step.reward for step in steps] == [0, 0, 0, 0, 1]
    assert [step.done for step in steps] == [False] * 4 + [True]
    assert [step.metrics["share_of_played_actions_effective"] for step in steps] == [0, 1, 1, 1, 1]
    assert steps[-1].success
    assert steps[-1].observation == "___\n_OO\n__√"
    with pytest.raises(RunError, match="the episode is over"):
        env.step("Left")


def test_falling_into_a_hole():
    env = episode(success_rate=1.0, view="grid_coord")
    env.step("Right")
    step = env.step("Down")
    assert (step.reward, step.done, step.success) == (0, True, False)
    assert "Player in hole: (1, 1)" in step.observation
    assert step.observation.endswith("___\n_XO\n__G")


def test_player_on_goal_line():
    assert "Player on goal: (2, 2)" in LAKE.coord(8)


@pytest.mark.parametrize("action", ["Left", "Down", "Right", "Up"])
def test_slips_go_to_the_perpendicular_sides(action):
    lake = Lake(3, start=4, goal=0, holes=frozenset())
    target = {"Left": 3, "Down": 7, "Right": 5, "Up": 1}
    sides = {"Left": (1, 7), "Right": (1, 7), "Up": (3, 5), "Down": (3, 5)}[action]
    counts = dict.fromkeys(range(9), 0)
    rng = seeded("slips", action)
    for _ in range(4000):
        env = FrozenLakeEnv(FrozenLake(size=3, success_rate=0.8), lake, rng, 4)
        env.step(action)
        counts[env.player] += 1
    assert counts[target[action]] == pytest.approx(3200, abs=130)  # 5 standard deviations
    assert [counts[side] for side in sides] == pytest.approx([400, 400], abs=95)
    assert sum(counts.values()) == counts[target[action]] + sum(counts[side] for side in sides)


def test_success_rate_0_never_goes_the_intended_way():
    lake = Lake(3, start=4, goal=0, holes=frozenset())
    for member in range(50):
        env = FrozenLakeEnv(FrozenLake(size=3, success_rate=0.0), lake, seeded(member), 4)
        env.step("Left")
        assert env.player in (1, 7)


def test_members_share_the_lake_and_slip_independently():
    environment = FrozenLake(size=8, frozen=1.0, success_rate=0.4)
    actions = ["Left", "Right", "Up", "Down"] * 5

    def path(member):
        env, cells = environment.make(3, member), []
        for action in actions:
            if env.done:
                break
            env.step(action)
            cells.append(env.player)
        return tuple(cells)

    assert len({environment.make(3, member).initial_observation() for member in range(16)}) == 1
    assert len({path(member) for member in range(16)}) > 12
    assert path(5) == path(5)


def test_every_lake_has_a_path_and_start_is_not_goal():
    holes = 0
    for seed in range(300):
        lake = FrozenLake(size=4, frozen=0.6).make(seed).lake
        assert lake.reachable()
        assert lake.start != lake.goal
        assert not lake.holes & {lake.start, lake.goal}
        holes += len(lake.holes)
    assert holes > 300


def test_reachable_goes_around_holes():
    assert LAKE.reachable()
    assert not Lake(3, 0, 8, frozenset({1, 3})).reachable()


def test_instruction():
    text = FrozenLake(view="grid_coord", size=4).instruction
    assert "(0, 0) at the top left to (3, 3)" in text
    assert "O hole, G goal, X player in a hole, √ player on the goal" in text
    assert "slippery" in text
    assert "slippery" not in FrozenLake(success_rate=1).instruction
    assert "row" not in FrozenLake(view="grid").instruction


def test_splits_are_disjoint_by_content():
    def keys(split):
        return {FrozenLake(size=3, split=split).make(seed).key for seed in range(300)}

    assert not keys("train") & keys("validation")
    assert len(keys("validation")) > 30


def test_pinned():
    assert FrozenLake().make(0).key == "____/PG_O/____/___O"


def test_refusals():
    with pytest.raises(ValueError, match="choose one of Left, Down, Right, Up"):
        episode().step("North")
    for params in ({"size": 1}, {"frozen": 0.0}, {"success_rate": 1.1}, {"view": "words"}):
        with pytest.raises(ValueError, match=next(iter(params))):
            FrozenLake(**params)
