from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Answer, Setting
from uncollapse.plugins.dialogue.boxed import Boxed

NAMES = ("Up", "Down")


def setting(actions=None, limit=2, think=True):
    return Setting("Add.", actions, max_turns=1, max_actions=1, max_actions_per_turn=limit, max_tokens=40, think=think)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"1 + 1 is \boxed{2}.", Answer("1 + 1 is", ("2",), 1)),
        (r"\boxed{\frac{1}{2}}", Answer("", (r"\frac{1}{2}",), 1)),
        (r"\boxed{1} no, \boxed {2}", Answer(r"\boxed{1} no,", ("2",), 1)),
        (r"a set: \boxed{\left\{1, \}\right.}", Answer("a set:", (r"\left\{1, \}\right.",), 1)),
        (r"\boxed{a\\}", Answer("", ("a\\\\",), 1)),
        (r"\boxed{1} or \boxed{2", Answer()),
        (r"\boxed{ }", Answer()),
        (r"\boxed 2", Answer()),
        (r"<think>\boxed{1}</think>", Answer()),
        ("<think>\\boxed{1}</think>\nso \\boxed{2}", Answer("<think>\\boxed{1}</think>\nso", ("2",), 1)),
        (r"<think>\boxed{1}", Answer()),
        ("2", Answer()),
    ],
)
def test_the_last_box_is_the_answer_and_what_stands_before_it_the_thought(text, expected):
    assert Boxed().parse(text, setting()) == expected


def test_names_of_actions_stand_in_the_box_with_or_without_a_font():
    assert Boxed().parse(r"so \boxed{\text{up} || Down}", setting(NAMES)).actions == ("Up", "Down")
    assert Boxed().parse(r"\boxed{\mathrm{Up}}", setting(NAMES)).actions == ("Up",)
    assert Boxed().parse(r"\boxed{jump}", setting(NAMES)) == Answer("", (), 1)
    assert Boxed().parse(r"\boxed{\text{Up}}", setting()).actions == (r"\text{Up}",)


@given(
    inner=st.recursive(
        st.sampled_from(["x", r"\{", r"\\", "1"]), lambda s: st.tuples(s, s).map("{{{0[0]}{0[1]}}}".format)
    ),
    before=st.text(alphabet=st.characters(exclude_characters="\\<{}", exclude_categories=["Cs"])),
)
def test_any_balanced_text_is_read_back(inner, before):
    said = Boxed().respond(before, (inner,), setting())
    assert Boxed().parse(said, setting()) == Answer(before.strip(), (inner,), 1)


def test_the_words_of_the_prompt():
    assert Boxed().system(setting()) == (
        "You are a helpful assistant.\nAdd.\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert Boxed().outcome(0.0, Answer(), setting()) == r"Invalid answer: put it within \boxed{}."
    assert Boxed(persona="", request="Box it.").system(setting()) == "Add.\nBox it."
