from __future__ import annotations

import pytest
from uncollapse.core.components import Answer, Setting
from uncollapse.plugins.dialogue.plain import Plain


def setting(actions=None, limit=1, think=True):
    return Setting(
        "Guess.", actions, max_turns=5, max_actions=4, max_actions_per_turn=limit, max_tokens=40, think=think
    )


def test_the_observation_is_the_whole_user_message_and_the_task_the_whole_system_message():
    assert Plain().system(setting()) == "Guess."
    assert Plain().ask(3, "warm\n{x}", 2, setting()) == "warm\n{x}"
    assert Plain().outcome(1.0, Answer("", ("a",), 1), setting()) == ""
    assert Plain().opening(True) == Plain().opening(False) == ""
    assert Plain().system(setting(("Up", "Down"), 2)) == (
        "Guess.\nReply with an action and nothing else: Up, Down. At most 2 a turn separated by ||, 4 in all."
    )


@pytest.mark.parametrize(
    ("text", "actions", "think", "expected"),
    [
        (" 42 || 43\n", None, True, Answer("", ("42 || 43",), 1)),
        ("<think>so \\boxed{1}</think>\n\n42", None, True, Answer("so \\boxed{1}", ("42",), 1)),
        ("<think>so</think>42", None, False, Answer("", ("<think>so</think>42",), 1)),
        ("<think>so 42", None, True, Answer("so 42")),
        ("up || DOWN", ("Up", "Down"), True, Answer("", ("Up", "Down"), 2)),
        ("I go up", ("Up", "Down"), True, Answer("", (), 1)),
        ("  ", None, True, Answer()),
    ],
)
def test_the_whole_response_but_the_thought_of_a_reasoning_model_is_the_action(text, actions, think, expected):
    assert Plain().parse(text, setting(actions, 2, think)) == expected
