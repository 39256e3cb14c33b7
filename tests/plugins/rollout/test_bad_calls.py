"""Models that call nothing, or write garbage where calls are expected, are answered and counted, and play on."""

from __future__ import annotations

import pytest
from rollout_worlds import Counter, says, tokenizer
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.call_formats import FORMATS
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.tools.tool_calculator import ToolCalculator
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.rows import episode_metrics
from uncollapse.plugins.rollout.template import Template


def conversation(environment, chat_template=None, **dialogue):
    made = tokenizer() if chat_template is None else tokenizer(chat_template)
    rollout = Rollout(think=False, max_tokens=12_000, max_turns=3, max_context=60_000)
    return Conversation(environment, rollout, Template(made, ToolCalls(**dialogue), False), seed=3)


def play(played, *texts):
    for text in texts:
        played.advance(says(played.template, text))
    return episode_metrics([played.episode()])


def test_a_model_that_calls_nothing_has_invalid_turns_where_actions_have_names():
    played = conversation(Counter())
    metrics = play(played, "I would go up.", "", "Up")
    assert [turn.user for turn in played.turns[1:]] == [f"Invalid answer: call a tool.\nseed 3 at {0}"] * 2
    assert (played.stop, metrics["actions"], metrics["share_of_turns_invalid"]) == ("max_turns", 0.0, 1.0)
    assert not any(name.startswith("share_of_calls") for name in metrics)  # there are no calls to have a share of
    assert metrics["reward"] == pytest.approx(-0.3)


def test_a_model_that_calls_nothing_answers_where_text_is_free():
    played = conversation(ToolCalculator())
    metrics = play(played, "I do not know.")
    assert (played.stop, metrics["actions"], metrics["share_of_turns_invalid"]) == ("done", 1.0, 0.0)


OPENINGS = {
    "hermes": '<tool_call>{"name": "calculator", "arguments": ',
    "llama": '{"name": "calculator", "parameters": ',
    "mistral": "[TOOL_CALLS]calculator[ARGS]",
    "granite": '<|tool_call|>[{"name": "calculator", "arguments": ',
    "pythonic": "[calculator(expression=",
}
GARBAGE = (
    '{"a": [' * 1_500,
    "[" * 10_000,
    '{"a": "' + "x" * 10_000,
    "}{][" * 2_500,
    '"\\u12' * 2_000,
    "\ufffd\x00" * 3_000,
)


@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_characters_of_garbage_are_a_broken_call_that_the_model_is_told_of(name):
    for garbage in GARBAGE:
        played = conversation(ToolCalculator(), format=name)
        metrics = play(played, OPENINGS[name] + garbage, "4")
        (call,) = played.turns[0].answer.calls
        assert (call.fault, played.turns[0].penalty) == ("broken", 0.1)
        assert played.turns[1].user.startswith("Result of the call: Error: the call cannot be read: it is ")
        assert len(played.turns[1].user) < 200
        assert (played.stop, metrics["share_of_calls_broken"]) == ("done", 1.0)


SYSTEM_LESS = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.role }}:"
)
SYSTEM_LESS += " {{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def test_a_template_without_tools_and_system_messages_has_both_in_the_first_message():
    played = conversation(ToolCalculator(), SYSTEM_LESS)
    text = played.template.tokenizer.decode(list(played.prompt))
    assert text.startswith("user: You are a helpful assistant.")
    assert text.count('"name": "calculator"') == 1
    play(played, '<tool_call>{"name": "calculator", "arguments": {"expression": "1 + 1"}}</tool_call>', "2")
    assert played.turns[1].user == "Result of calculator: 2"


def test_a_template_without_tools_is_refused_where_it_is_to_describe_them():
    with pytest.raises(RequestError, match="the chat template describes no tools"):
        conversation(ToolCalculator(), SYSTEM_LESS, listing="template")
