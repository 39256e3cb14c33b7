from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.plugins.rollout.parsing import Answer, parse

ACTIONS = ("Up", "Down", "Turn Left")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>Up</answer>", Answer("a", ("Up",), 1)),
        ("<think> a\nb </think>\n <answer> up ||  turn   LEFT </answer> tail", Answer("a\nb", ("Up", "Turn Left"), 2)),
        ("<think>a</think><answer>|| Up || ||</answer>", Answer("a", ("Up",), 1)),
        ("<think>a</think><answer>Up || Jump</answer>", Answer("a", ("Up",), 2)),
        ("<think>a</think><answer>Jump</answer>", Answer("a", (), 1)),
        ("<think>a</think><answer> </answer>", Answer("a", (), 0)),
        ("<think>a</think> so <answer>Up</answer>", Answer()),
        ("<think>a<answer>Up</answer>", Answer()),
        ("<answer>Up</answer>", Answer()),
        ("<think>a</think><answer>Up</answer><think>b</think><answer>Down</answer>", Answer("a", ("Up",), 1)),
    ],
)
def test_reads_the_first_envelope(text, expected):
    assert parse(text, ACTIONS, 2) == expected


def test_validity():
    assert parse("<think></think><answer>Up||Down</answer>", ACTIONS, 2).valid
    assert not parse("<think></think><answer>Up||Jump</answer>", ACTIONS, 2).valid
    assert not parse("<think></think><answer></answer>", ACTIONS, 2).valid
    assert not parse("Up", ACTIONS, 2).valid


def test_surplus_actions_are_cut_without_penalty_even_if_they_are_nonsense():
    answer = parse("<think></think><answer>Up||Down||Jump</answer>", ACTIONS, 2)
    assert answer.actions == ("Up", "Down")
    assert answer.valid


def test_without_thinking_only_the_answer_counts():
    assert parse("<answer>Down</answer>", ACTIONS, 2, think=False) == Answer("", ("Down",), 1)
    assert parse("<think>x</think><answer>Down</answer>", ACTIONS, 2, think=False).actions == ("Down",)


def test_free_text_is_one_action_as_it_stands():
    assert parse("<think>t</think><answer> 3 || (4 + X) </answer>", None, 1) == Answer("t", ("3 || (4 + X)",), 1)
    assert not parse("<think>t</think><answer>  </answer>", None, 1).valid


PIECES = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<answer>", "</answer>", "||", "Up", "down", "turn left", " ", "\n", "ß", "x"]
    ),
    max_size=20,
).map("".join)


@given(text=PIECES | st.text(), free=st.booleans(), think=st.booleans(), limit=st.integers(1, 4))
def test_never_raises_and_reading_what_was_read_changes_nothing(text, free, think, limit):
    actions = None if free else ACTIONS
    answer = parse(text, actions, limit, think)
    assert len(answer.actions) <= answer.parsed <= limit
    assert free or set(answer.actions) <= set(ACTIONS)
    thought = f"<think>{answer.thought}</think>" if think else ""
    again = parse(f"{thought}<answer>{' || '.join(answer.actions)}</answer>", actions, limit, think)
    assert again.actions == answer.actions
    assert again.thought == answer.thought
