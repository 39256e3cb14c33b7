"""Conversations with tools are what the chat template writes, token for token, and only grow."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_templates import TOOLED
from uncollapse.core.components import Call, Completion, Env, Environment, Setting, Step, Tool
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.call_formats import FORMATS
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.messages import Result
from uncollapse.plugins.rollout.template import Template

NAMES = sorted(TOOLED)
NATIVE = [name for name in NAMES if TOOLED[name].described]


@cache
def template(name: str, think: bool = False) -> Template:
    return Template(TOOLED[name].family.tokenizer(), ToolCalls(), think)


class Board(Env):
    """Adds up what it is told, and says it in any words."""

    def __init__(self, says: str) -> None:
        self.says, self.total = says, 0

    def initial_observation(self) -> str:
        return "What is 1 + 2?"

    def add(self, number: int) -> str:
        """Add a number to what there is.

        Args:
            number: The number.
        """
        self.total += number
        return f"{self.says}{self.total}"

    def step(self, action: str) -> Step:
        return Step("No.", 1.0 if action == str(self.total) else 0.0, done=action == str(self.total), success=True)


@attrs.frozen
class Adder(Environment):
    says: str = ""
    instruction: str = "Add up."
    actions: None = None
    tools = (Board.add,)

    def make(self, seed: int, member: int = 0) -> Board:
        return Board(self.says)


def calls(name: str, *numbers: int) -> str:
    return FORMATS[TOOLED[name].format].write([("add", {"number": number}) for number in numbers])


def say(made: Template, text: str) -> Completion:
    tokens = [*made.tokenizer.encode(text, add_special_tokens=False), made.tokenizer.eos_token_id]
    return Completion(tuple(tokens), (-0.1,) * len(tokens), "eos")


def play(name: str, *texts: str, says: str = "", **limits: object) -> Conversation:
    made = template(name)
    limits = {"max_tokens": 20, "max_context": 9000, "think": False, "max_actions_per_turn": 3} | limits
    conversation = Conversation(Adder(says), Rollout(**limits), made, seed=0)
    for text in texts:
        conversation.advance(say(made, text))
    return conversation


@pytest.mark.parametrize("name", NAMES)
def test_the_format_and_the_place_of_the_tools_are_those_of_the_template(name):
    expected, made = TOOLED[name], template(name)
    assert made.dialogue.format == expected.format
    assert made.dialogue.listing == ("template" if expected.described else "system")
    if expected.described:
        assert (made.layout.call_form.in_calls, made.layout.call_form.again) == (expected.in_calls, not expected.moves)


@pytest.mark.parametrize("name", NAMES)
def test_tools_are_described_called_and_answered_in_every_family(name):
    conversation = play(name, calls(name, 1), calls(name, 2, 3), "7", "6")
    first = conversation.template.tokenizer.decode(list(conversation.turns[0].prompt))
    assert first.count("Add a number to what there is.") == 1
    assert first.count("What is 1 + 2?") == 1
    assert [turn.answer.valid for turn in conversation.turns] == [True] * 4
    assert [turn.executed for turn in conversation.turns] == [1, 2, 1, 1]
    assert (conversation.stop, conversation.env.total) == ("success", 6)
    texts = [conversation.template.tokenizer.decode(list(turn.prompt)) for turn in conversation.turns]
    added = [text[len(before) :] for before, text in pairwise(texts)]
    assert "1" in added[0]
    assert added[1].index("3") < added[1].rindex("6")
    assert "No." in added[2]


@pytest.mark.parametrize("name", [name for name in NATIVE if not TOOLED[name].in_calls])
def test_the_whole_conversation_is_what_the_template_writes(name):
    made, turns = template(name), play(name, calls(name, 1), calls(name, 2, 3), "7", "6").turns
    mark = ["FIRST", "SECOND", "THIRD"]
    said = [
        {"role": "system", "content": play(name).system},
        {"role": "user", "content": "What is 1 + 2?"},
        {"role": "assistant", "content": mark[0]},
        {"role": "tool", "name": "add", "content": "1", "tool_call_id": "call00000"},
        {"role": "assistant", "content": mark[1]},
        {"role": "tool", "name": "add", "content": "3", "tool_call_id": "call00001"},
        {"role": "tool", "name": "add", "content": "6", "tool_call_id": "call00002"},
        {"role": "assistant", "content": mark[2]},
        {"role": "user", "content": "No."},
    ]
    tools = [tool.spelled for tool in play(name).tools]
    text = made.tokenizer.apply_chat_template(
        said, tools=tools, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    for word in (
        mark if name == "qwen3" else ()
    ):  # its prompts hold an empty thought, which it drops from earlier answers
        text = text.replace(f"assistant\n{word}", f"assistant\n<think>\n\n</think>\n\n{word}")
    for number, answer in enumerate((calls(name, 1), calls(name, 2, 3), "7")):
        text = text.replace(mark[number], answer)
    assert turns[3].prompt == tuple(made.tokenizer.encode(text, add_special_tokens=False))


def test_calls_after_a_thought_that_the_template_opens_are_read_and_those_in_it_are_not():
    base = TOOLED["qwen3"].family
    generation = "{{ '<|im_start|>assistant\n' }}"
    family = attrs.evolve(base, template=base.template.replace(generation, generation[:-3] + " + '<think>\n' }}"))
    made = Template(family.tokenizer(), ToolCalls(), True)
    assert made.dialogue.listing == "template"
    conversation = Conversation(Adder(), Rollout(max_tokens=20), made, seed=0)
    inside, outside = calls("qwen3", 5), calls("qwen3", 2)
    conversation.advance(say(made, f"so {inside}</think>\n\n{outside}"))
    assert (conversation.env.total, conversation.turns[0].answer.thought) == (2, f"so {inside}")
    text = made.tokenizer.decode(list(conversation.prompt))
    assert text.endswith("\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n<think>\n")
    conversation.advance(say(made, f"{inside} and"))
    assert not conversation.turns[1].answer.valid


@pytest.mark.parametrize("name", ["mistral-v0.3", "mistral-nemo"])
def test_a_template_that_refuses_results_after_plain_answers_gets_calls_without_their_markup(name):
    conversation = play(name, calls(name, 1), calls(name, 2, 3), "7")
    text = conversation.template.tokenizer.decode(list(conversation.prompt)).replace("] ", "]").replace(" [", "[")
    assert text.count("[AVAILABLE_TOOLS]") == 1
    answer = '[TOOL_CALLS][{"name": "add", "arguments": {"number": 1}}]</s>[TOOL_RESULTS]{"content": 1, "call_id"'
    assert answer in text.replace(" </s>", "</s>")
    assert '"call_id": "call00001"}[/TOOL_RESULTS][TOOL_RESULTS]{"content": 6' in text.replace("] [", "][")
    assert text.endswith("7</s>[INST]No.[/INST]")


@pytest.mark.parametrize("window", ["full", "limited_multi_turn", "single_turn"])
@pytest.mark.parametrize("name", NAMES)
def test_every_window_shows_results(name, window):
    conversation = play(name, calls(name, 1), calls(name, 5), context_window=window, window_turns=2)
    text = conversation.template.tokenizer.decode(list(conversation.prompt))
    assert text.count("Add a number to what there is.") == 1
    assert "6" in text
    assert conversation.stop is None


MARKS = [
    "<|im_end|>",
    "<|eot_id|>",
    "</tool_response>",
    "<tool_call>",
    "[TOOL_CALLS]",
    "</s>",
    "[/INST]",
    "<|end_of_text|>",
]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(says=st.lists(st.sampled_from([*MARKS, '"', "\\", "\n", "x", "é", " "]), max_size=6).map("".join))
def test_prompts_only_grow_and_no_result_forges_a_control_token(name, says):
    plain, forged = (play(name, calls(name, 1), calls(name, 2, 3), "7", says=each) for each in ("", f"x{says}x"))
    for conversation in (plain, forged):
        for turn, after in zip(conversation.turns, [*conversation.turns[1:], None], strict=True):
            prompt = after.prompt if after else conversation.prompt
            assert prompt[: len(turn.prompt) + len(turn.tokens)] == turn.prompt + turn.tokens
    controls = plain.template.encoder.controls
    counted = [[token for token in each.prompt if token in controls] for each in (plain, forged)]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("name", ["qwen2.5", "mistral-nemo", "smollm2"])
def test_what_a_tool_says_of_itself_is_foreign_text(name):
    made = template(name)
    end = made.tokenizer.eos_token

    def prompt(words: str) -> tuple[int, ...]:
        function = {"name": "f", "description": words, "parameters": {"type": "object", "properties": {}}}
        setting = Setting("Go.", None, 1, 1, 1, 9, False, (Tool("f", json.dumps(function)),))
        dialogue = made.dialogue
        return made.first(dialogue.system(setting), "u", dialogue.reply(setting), dialogue.tools(setting))

    plain, forged = prompt("Runs."), prompt(f"Runs{end}.")
    controls = made.encoder.controls
    assert [token for token in plain if token in controls] == [token for token in forged if token in controls]
    assert f"Runs{end}." in made.tokenizer.decode(list(forged))


def test_without_tools_a_prompt_is_that_of_any_other_dialogue():
    made, other = template("qwen2.5"), Template(TOOLED["qwen2.5"].family.tokenizer(), ThinkAnswer(), False)
    assert made.layout.first("s", "u") == other.layout.first("s", "u")
    assert made.layout.after("s", ["u", "v"]) == other.layout.after("s", ["u", "v"])


def test_a_template_that_describes_no_tools_cannot_be_asked_to():
    with pytest.raises(RequestError, match="the chat template describes no tools"):
        Template(TOOLED["phi4"].family.tokenizer(), ToolCalls(listing="template"))


def test_tools_may_be_described_in_the_system_message_though_the_template_could():
    made = Template(TOOLED["llama3.1"].family.tokenizer(), ToolCalls(listing="system", format="hermes"), False)
    conversation = Conversation(Adder(), Rollout(think=False), made, seed=0)
    conversation.advance(say(made, '<tool_call>{"name": "add", "arguments": {"number": 4}}</tool_call>'))
    assert conversation.user == "Result of add: 4"
    assert "Environment: ipython" not in made.tokenizer.decode(list(conversation.prompt))


def test_an_environment_with_tools_is_refused_in_a_dialogue_without_calls():
    made = Template(TOOLED["qwen2.5"].family.tokenizer(), ThinkAnswer())
    with pytest.raises(RequestError, match="Adder offers tools, which the dialogue ThinkAnswer does not call"):
        Conversation(Adder(), Rollout(), made, seed=0)


def test_a_call_that_cannot_be_played_is_answered_and_the_others_are_played():
    text = '<tool_call>{"name": "add"</tool_call><tool_call>{"name": "mul", "arguments": {}}</tool_call>'
    text += '<tool_call>{"name": "add", "arguments": {"number": "1"}}</tool_call>'
    conversation = play("qwen2.5", text + calls("qwen2.5", 4) + calls("qwen2.5", 5) * 2, max_actions_per_turn=4)
    (turn,) = conversation.turns
    assert [call.fault for call in turn.answer.calls] == ["broken", "unknown", "wrong", "", ""]
    assert (turn.answer.parsed, turn.executed, turn.answer.valid, turn.penalty) == (4, 1, False, 0.1)
    assert conversation.said[-1] == (
        Result("", "Error: the call cannot be read: it is no JSON: Expecting ',' delimiter"),
        Result("mul", "Error: there is no tool 'mul'; the tools are add"),
        Result("add", "Error: add was not called: the argument 'number' must be integer, not \"1\""),
        Result("add", "4"),
        Result("", "2 more were not called: at most 4 are, in one turn"),
    )
    assert turn.answer.calls[3] == Call("add", '{"number": 4}')


# --- turns before the first -----------------------------------------------------------------------------------------


class Remembers(Board):
    system_text = "Be quick."

    def __init__(self, says: str) -> None:
        super().__init__(says)
        self.earlier_turns = ((f"1 + 1?{says}", f"2{says}"), ("2 + 2?", "4"))


@attrs.frozen
class Chat(Adder):
    def make(self, seed: int, member: int = 0) -> Remembers:
        return Remembers(self.says)


@pytest.mark.parametrize("name", NAMES)
def test_earlier_turns_of_a_task_are_turns_of_the_chat(name):
    made, rollout = template(name), Rollout(think=False, max_tokens=20, max_context=9000)
    conversation, forged = (Conversation(Chat(says), rollout, made, seed=0) for says in ("", "<|im_end|></s>"))
    controls = made.encoder.controls
    assert [t for t in conversation.prompt if t in controls] == [t for t in forged.prompt if t in controls]
    conversation.advance(say(made, calls(name, 3)))
    text = made.tokenizer.decode(list(conversation.prompt))
    places = [text.index(part) for part in ("Be quick.", "Add up.", "1 + 1?", "2 + 2?", "What is 1 + 2?")]
    assert places == sorted(places)
    assert conversation.prompt[: len(conversation.turns[0].prompt)] == conversation.turns[0].prompt
    assert text.count("1 + 1?") == text.count("2 + 2?") == 1


@pytest.mark.parametrize("window", ["limited_multi_turn", "single_turn"])
def test_earlier_turns_stay_in_every_window(window):
    made = template("qwen2.5")
    rollout = Rollout(think=False, max_tokens=20, max_context=9000, context_window=window, window_turns=1)
    conversation = Conversation(Chat(), rollout, made, seed=0)
    conversation.advance(say(made, "7"))
    text = made.tokenizer.decode(list(conversation.prompt))
    assert "user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n2 + 2?" in text
    assert "What is 1 + 2?" not in text
