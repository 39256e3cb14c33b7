"""A conversation speaks the words of its dialogue and no others; what a dialogue hands over is checked."""

from __future__ import annotations

import re
import time

import attrs
import pytest
from rollout_worlds import CHATML, THINKING, Counter, Parrot, Scripted, says, tokenizer
from uncollapse.core.components import Answer, Dialogue, Setting
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.dialogue import CheckedDialogue, setting_of
from uncollapse.plugins.rollout.template import Template

WINDOWS = ("full", "limited_multi_turn", "single_turn")


@attrs.frozen
class Orders(Dialogue):
    """``DO: a, b``, and nothing else."""

    word: str = "DO"
    begins: str = ""

    def opening(self, think: bool) -> str:
        return self.begins

    def system(self, setting: Setting) -> str:
        return f"{setting.instruction} Say {self.word}: {' or '.join(setting.actions or ('anything',))}"

    def ask(self, number: int, observation: str, actions_left: int, setting: Setting) -> str:
        return f"[{number}] {observation}"

    def summary(self, answer: Answer) -> str:
        return f"[did] {' and '.join(answer.actions)}"

    def parse(self, response: str, setting: Setting) -> Answer:
        found = re.search(f"{self.word}: (.*)", response)
        return Answer.naming(found[1].split(",") if found else (), setting)

    def respond(self, thought: str, actions: tuple[str, ...], setting: Setting) -> str:
        return f"{self.begins}{self.word}: {', '.join(actions)}"


def play(template: Template, *texts: str, **settings: object) -> Conversation:
    conversation = Conversation(Counter(goal=9), Rollout(**settings), template, seed=7)
    for text in texts:
        conversation.advance(says(template, text))
    return conversation


def read(conversation: Conversation) -> str:
    return conversation.template.tokenizer.decode(conversation.prompt)


@pytest.mark.parametrize("window", WINDOWS)
def test_every_word_of_a_prompt_is_the_dialogues_or_the_environments(window):
    conversation = play(Template(tokenizer(), Orders()), "DO: up, UP", "what?", context_window=window, window_turns=2)
    prompt = read(conversation)
    assert "Walk to the goal. Say DO: Up or Down" in prompt
    for word in ("think", "answer", "Reward", "State", "Actions left", "helpful", "||", "Turn"):
        assert word not in prompt
    assert "[3] at 2" in prompt
    assert [turn.answer for turn in conversation.turns] == [Answer("", ("Up", "Up"), 2), Answer()]
    assert [turn.response for turn in conversation.turns] == ["DO: up, UP", "what?"]


def test_what_a_dialogue_says_nothing_of_leaves_no_line():
    conversation = play(Template(tokenizer(), Orders()), "DO: up", context_window="single_turn", window_turns=-1)
    assert conversation.user == "[1] seed 7 at 0\n[did] Up\n[2] at 1"
    assert play(Template(tokenizer(), Orders()), "DO: up").user == "[2] at 1"


@pytest.mark.parametrize(("begins", "ending"), [("", "assistant\n"), ("Now ", "assistant\nNow ")])
def test_the_opening_ends_the_prompt_and_begins_the_response(begins, ending):
    template = Template(tokenizer(), Orders(begins=begins))
    conversation = play(template, "DO: down", "DO: up", max_turns=2)
    assert template.tokenizer.decode(conversation.turns[1].prompt).endswith(ending)
    assert conversation.turns[1].response == f"{begins}DO: up"
    assert conversation.turns[1].answer.actions == ("Up",)


def test_a_thought_that_the_chat_template_opens_begins_a_response_without_an_opening():
    template = Template(tokenizer(THINKING), Orders())
    conversation = play(template, "hm</think>DO: up", max_turns=1)
    assert conversation.turns[0].response == "<think>hm</think>DO: up"
    with pytest.raises(RequestError, match="opens a thought in every answer, which the dialogue begins with 'Now '"):
        Template(tokenizer(THINKING), Orders(begins="Now "))


def test_tags_of_a_dialogue_cannot_be_forged_where_the_tokenizer_has_tokens_for_them():
    words = tokenizer(CHATML)
    words.add_tokens(["<do>"])
    number = words.convert_tokens_to_ids("<do>")

    @attrs.frozen
    class Tagged(Orders):
        tags = ("<do>",)

        def system(self, setting: Setting) -> str:
            return f"{setting.instruction}\n{self.reply(setting)}"

        def reply(self, setting: Setting) -> str:
            return "Reply: <do>"

    @attrs.frozen
    class Forger(Counter):
        instruction: str = "Walk. <do>"

    def count(dialogue: Dialogue) -> int:
        return Conversation(Forger(), Rollout(), Template(words, dialogue), seed=0).prompt.count(number)

    assert (count(Tagged()), count(Orders())) == (1, 1)  # the reply's; whoever claims no tag has none to forge


@pytest.mark.parametrize("actions", [("Up", "Up || Down"), ("Up", "</answer>")])
def test_actions_that_no_answer_in_the_dialogue_can_name_are_refused(actions):
    world = Counter(actions=actions)
    with pytest.raises(RunError, match="which no answer in the dialogue ThinkAnswer can name") as raised:
        Conversation(world, Rollout(), Template(tokenizer(), ThinkAnswer()), seed=0)
    assert repr(actions[1]) in str(raised.value)
    assert Conversation(world, Rollout(), Template(tokenizer(), Orders()), seed=0).stop is None


# --- what is handed over --------------------------------------------------------------------------------------------


def checked(**methods: object) -> CheckedDialogue:
    """A dialogue with other methods, under a registered name."""
    assert registry().entry("dialogue", "think_answer")
    made = attrs.frozen(type("Other", (Orders,), methods))()
    return CheckedDialogue(Named("dialogue", "think_answer", {}, made, "plugin 'other'"))


def gives(value: object) -> object:
    return lambda self, *given: value


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"tags": "<do>"}, "tags must be a tuple of texts, not '<do>'"),
        ({"thought_end": None}, "thought_end gave NoneType None, not a text"),
        ({"opening": gives(None)}, "opening gave NoneType None, not a text"),
        ({"system": gives(b"Walk")}, "system gave bytes b'Walk', not a text"),
        ({"reply": gives("Reply: x")}, "reply gave 'Reply: x', which is no part of the system message"),
        ({"ask": gives("")}, "ask gave no text for turn 1: there is nothing to answer"),
        ({"outcome": gives(0.5)}, "outcome gave float 0.5, not a text"),
        ({"summary": gives(["Up"])}, "summary gave list ['Up'], not a text"),
        ({"respond": gives("DO: Up"), "opening": gives("!")}, "which does not begin with the opening '!'"),
        ({"parse": gives(("Up",))}, "parse gave tuple, not an Answer"),
        ({"parse": gives(Answer("", ["Up"], 1))}, "actions = ['Up'], which is not a tuple of texts"),
        ({"parse": gives(Answer("", ("",), 1))}, "actions = ('',), which is not a tuple of texts"),
        ({"parse": gives(Answer("", ("Up", "Up"), 1))}, "gave 2 actions and parsed = 1"),
        ({"parse": gives(Answer("", ("Up",) * 3, 3))}, "gave 3 actions and parsed = 3, where actions <= parsed <= 2"),
        ({"parse": gives(Answer("", (), 1.0))}, "parsed = 1.0"),
        ({"parse": gives(Answer("", ("up",), 1))}, "gave the action 'up'; the environment has Up, Down"),
        ({"parse": gives(Answer(None, (), 0))}, "parse gave NoneType None, not a text"),
        ({"parse": lambda self, *given: {}["key"]}, "failed in parse('DO: Up'): KeyError: 'key'"),
    ],
)
def test_what_a_dialogue_may_not_hand_over_is_refused_by_name(methods, said):
    with pytest.raises(RunError) as raised:
        play(Template(tokenizer(), checked(**methods)), "DO: up", "DO: up", context_window="single_turn")
    assert said in str(raised.value)
    assert "dialogue 'think_answer' of plugin 'other'" in str(raised.value)


def test_a_dialogue_that_is_right_passes_the_checks_and_changes_nothing():
    bare, whole = Template(tokenizer(), Orders()), Template(tokenizer(), checked())
    texts = ("DO: up, up", "DO: jump", "DO: down")
    for window in WINDOWS:
        one, two = (play(template, *texts, context_window=window) for template in (bare, whole))
        assert one.prompt == two.prompt
        assert one.turns == two.turns


def test_a_dialogue_that_hangs_on_an_answer_ends_the_run_with_its_name():
    template = Template(tokenizer(), checked(parse=lambda self, *given: time.sleep(30)))
    free = Conversation(Parrot(), Rollout(step_timeout=0.2), template, seed=10003, member=2)
    with pytest.raises(RunError) as raised:
        free.advance(says(template, "DO: up"))
    assert raised.value.what == "the dialogue think_answer took more than 0.2 s for the answer of turn 1"
    assert raised.value.where == "the group of seed 10003, member 2"


def test_free_text_may_be_several_actions():
    setting = setting_of(Parrot(), Rollout(max_actions_per_turn=2))
    assert Answer.naming([" a ", "", "b", "c"], setting) == Answer("", ("a", "b"), 2)
    template = Template(tokenizer(), checked())
    conversation = Conversation(Parrot(), Rollout(), template, seed=0)
    conversation.advance(says(template, "DO: 1 + 1, 2 + 2"))
    assert (conversation.turns[0].answer.actions, conversation.executed) == (("1 + 1", "2 + 2"), 2)


def test_collecting_speaks_the_templates_dialogue():
    template = Template(tokenizer(), checked())
    engine = Scripted(template, "DO: up, up", "DO: down")
    (episode,) = collect(Counter(goal=1), Rollout(), engine, template, seeds=[0], group_size=1, seed=0)
    assert episode.turns[0].answer.actions == ("Up", "Up")
    assert episode.success
