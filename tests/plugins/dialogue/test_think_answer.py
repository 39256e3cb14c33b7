from __future__ import annotations

import re

import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Answer, Setting
from uncollapse.core.compose.problems import CompositionError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer

ACTIONS = ("Up", "Down", "Turn Left")
DIALOGUE = ThinkAnswer()


def setting(actions=ACTIONS, limit=2, think=True, **budgets):
    given = {"instruction": "Walk to the goal.", "max_turns": 5, "max_actions": 10, "max_tokens": 400}
    return Setting(actions=actions, max_actions_per_turn=limit, think=think, **{**given, **budgets})


def parse(text, actions, limit, think=True):
    return DIALOGUE.parse(text, setting(actions, limit, think))


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


# --- wording --------------------------------------------------------------------------------------------------------


def test_the_system_message_says_task_actions_budget_length_and_format():
    assert DIALOGUE.system(setting(("Up", "Down"), max_tokens=100, max_actions=6)) == (
        "You are a helpful assistant.\nWalk to the goal.\nActions: Up, Down\n"
        "Give at most 2 a turn separated by ||, 6 in all. At most 75 words a turn.\n"
        "Reply: <think>your thoughts</think><answer>action || action</answer>"
    )
    one = DIALOGUE.system(setting(limit=1, think=False))
    assert "||" not in one
    assert one.endswith("\nReply: <answer>action</answer>")
    assert DIALOGUE.system(setting(None, max_actions=3, max_tokens=1)) == (
        "You are a helpful assistant.\nWalk to the goal.\nGive one answer a turn, 3 in all. At most 1 words a turn.\n"
        "Reply: <think>your thoughts</think><answer>your answer</answer>"
    )


def test_the_words_of_a_turn():
    assert DIALOGUE.ask(2, "at 0\n", 7, setting()) == "Turn 2:\nState:\nat 0\n\nActions left: 7"
    good, bad = Answer("", ("Up",), 1), Answer("", ("Up",), 2)
    assert DIALOGUE.outcome(-0.0, good, setting()) == "Reward:\n0"
    assert DIALOGUE.outcome(-0.1, bad, setting()) == (
        "Reward:\n-0.1\nInvalid answer: keep to the actions and the reply format."
    )
    assert DIALOGUE.summary(Answer("", ("Up", "Down"), 2)) == "Answer: Up || Down"
    assert DIALOGUE.summary(Answer()) == "Answer: none"


def test_the_opening_is_the_thought_if_there_is_one():
    assert [DIALOGUE.opening(think) for think in (True, False)] == ["<think>", "<answer>"]
    assert DIALOGUE.respond("hm", ("Up", "Down"), setting()) == "<think>hm</think><answer>Up || Down</answer>"
    assert DIALOGUE.respond("hm", ("Up",), setting(think=False)) == "<answer>Up</answer>"


def test_every_word_is_a_parameter():
    other = ThinkAnswer(
        persona="",
        separator=";",
        listed="Moves: {actions} ({per_turn}{separated}; {total}; {words})",
        turn="{observation} #{number}",
        rewarded="",
        warning="What?",
        answered="did {actions}",
        example="<think>{so}</think><answer>Up</answer>",
    )
    assert other.system(setting(("Up", "Down"), max_actions=6, max_tokens=100)) == (
        "Walk to the goal.\nMoves: Up, Down (2 separated by ;; 6; 75)\n"
        "Reply: <think>your thoughts</think><answer>action ; action</answer>\n"
        "Example: <think>{so}</think><answer>Up</answer>"
    )
    assert other.reply(setting()).endswith("Example: <think>{so}</think><answer>Up</answer>")
    assert other.ask(2, "at {0}", 7, setting()) == "at {0} #2"
    assert other.outcome(1.0, Answer("", ("Up",), 1), setting()) == ""
    assert other.outcome(1.0, Answer(), setting()) == "What?"
    assert other.summary(Answer("", ("Up", "Down"), 2)) == "did Up ; Down"
    assert other.parse("<think></think><answer>up;down</answer>", setting()).actions == ("Up", "Down")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"turn": "Turn {number}"}, "turn must have the place {observation}"),
        ({"turn": "{observation} {state}"}, "turn has the place {state}; the places are {number}, {observation}"),
        ({"turn": "{observation.__class__}"}, "turn has the place {observation.__class__}"),
        ({"turn": "{observation!r}"}, "turn has a place with more than a name"),
        ({"turn": "{observation"}, "turn: expected '}' before end of string"),
        ({"rewarded": "{}"}, "rewarded has the place {}"),
        ({"separator": " \n"}, "separator must not be blank"),
    ],
)
def test_words_with_places_that_there_are_not_are_refused(words, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ThinkAnswer(**words)


@pytest.mark.parametrize("think", ["true", "false"])
def test_an_example_must_be_one(think):
    example = "'think_answer(example=\"At 0: <think>so</think><answer>Up</answer>\")'"
    assert uncollapse.compose("tiny-sokoban", [f"dialogue={example}", f"rollout.think={think}"])
    with pytest.raises(CompositionError, match="has an example in which no answer is read"):
        uncollapse.compose("tiny-sokoban", ["dialogue='think_answer(example=Up)'", f"rollout.think={think}"])
