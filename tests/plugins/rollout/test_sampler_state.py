"""The state of a sampler, groups included, is the same after a checkpoint, to the last bit."""

import json
import math

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uncollapse.core.components import Answer
from uncollapse.core.files import to_json
from uncollapse.plugins.rollout.episode import Episode, Turn
from uncollapse.plugins.rollout.sampler_state import from_plain, group_of, to_plain

TOKENS = st.lists(st.integers(0, 200_000), max_size=6).map(tuple)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ANSWERS = st.builds(Answer, st.text(), st.lists(st.text(), max_size=2).map(tuple), st.integers(0, 3))
TURNS = st.builds(
    Turn,
    TOKENS,
    TOKENS,
    st.lists(NUMBERS, max_size=4).map(tuple),
    st.sampled_from(["eos", "stop", "length"]),
    st.text(),
    st.text(),
    ANSWERS,
    st.integers(0, 3),
    NUMBERS,
    NUMBERS,
)
EPISODES = st.builds(
    Episode,
    st.just(2**40 + 7),
    st.integers(0, 9),
    st.text(),
    st.lists(TURNS, min_size=1, max_size=3).map(tuple),
    st.sampled_from(["success", "done", "max_turns"]),
    st.dictionaries(st.text(), NUMBERS, max_size=2),
)
GROUPS = st.builds(
    group_of, st.lists(EPISODES, min_size=1, max_size=3, unique_by=lambda each: each.member), st.integers(0, 99)
).filter(lambda group: all(map(math.isfinite, group.rewards)))


def through_a_checkpoint(state):
    return from_plain(json.loads(to_json(to_plain(state), indent=1)))


@settings(max_examples=40)
@given(st.fixed_dictionaries({"left": st.lists(GROUPS, max_size=1), "best": st.one_of(GROUPS, NUMBERS, st.none())}))
def test_a_state_with_groups_comes_back_as_it_was(state):
    assert through_a_checkpoint(state) == state


def turns(*pairs):
    for prompt, tokens in pairs:
        yield Turn(prompt, tokens, (-0.1,), "eos", "?", "!", Answer(), 0, 0.1, 0.3)


def test_what_a_prompt_shares_with_the_turn_before_is_written_once():
    conversation = tuple(turns(((1, 2, 3), (4,)), ((1, 2, 3, 4, 5), (6,)), ((1, 2, 3, 4, 5, 6, 7), (8,))))
    windows = tuple(turns(((1, 2, 3), (4,)), ((1, 2, 9), (6,))))
    group = group_of([Episode(5, 0, "s", conversation, "done", {}), Episode(5, 1, "s", windows, "done", {})], 3)
    plain = to_plain(group)["group of episodes"]
    assert [(turn["shared"], turn["prompt"]) for turn in plain["episodes"][0]["turns"]] == [
        (0, "1 2 3"),
        (4, "5"),
        (6, "7"),
    ]
    assert [(turn["shared"], turn["prompt"]) for turn in plain["episodes"][1]["turns"]] == [(0, "1 2 3"), (0, "1 2 9")]
    assert through_a_checkpoint(group) == group


def test_a_group_knows_rewards_and_successes_of_its_members_in_their_order():
    (turn,) = turns(((1,), (2,)))
    won = Episode(5, 0, "s", (attrs.evolve(turn, reward=2.0),), "success", {})
    lost = Episode(5, 1, "s", (turn, turn), "done", {})
    group = group_of([lost, won], 3)
    assert (group.seed, group.step, group.episodes) == (5, 3, (won, lost))
    assert group.rewards == (2.0 - 0.3, 2 * (0.1 - 0.3))
    assert group.successes == (True, False)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1: 2.0}, "a mapping with the key 1, which a checkpoint would make a text"),
        ({"a": [float("inf")]}, "inf, which a checkpoint cannot hold"),
        ({"a": {1, 2}}, "set, which a checkpoint cannot hold"),
        ([b"text"], "bytes, which a checkpoint cannot hold"),
    ],
)
def test_what_a_checkpoint_would_change_is_refused(value, says):
    with pytest.raises(ValueError, match=f"holds {says}"):
        to_plain({"state": value})


def test_numbers_of_numpy_become_numbers_of_python():
    import numpy

    plain = to_plain({"count": numpy.int64(3), "mean": numpy.float32(0.5), "best": numpy.float64(0.1)})
    assert plain == {"count": 3, "mean": 0.5, "best": 0.1}
    assert [type(value) for value in plain.values()] == [int, float, float]
