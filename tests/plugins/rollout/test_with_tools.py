"""Tool sets in any environment: who is asked, what the model reads, and what is released at the end."""

from __future__ import annotations

import json
import re
import threading
import time

import attrs
import pytest
from rollout_worlds import Counter, says, tokenizer
from uncollapse.core.components import Completion, Env, Environment, RolloutEngineSession, Step, Toolset, ToolsetSession
from uncollapse.core.compose.config import compose, problems
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.tools.with_tools import WithTools, shortened
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.rows import episode_metrics
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.tools import tools_of

QUESTIONS = '{"question": "What is 123 * 456?", "answer": "56088"}\n{"question": "7 * 8?", "answer": "56"}\n'


@pytest.fixture
def questions(tmp_path):
    (tmp_path / "questions.jsonl").write_text(QUESTIONS)
    return str(tmp_path / "questions.jsonl")


def checked(environment):
    return CheckedEnvironment(Named("environment", "with_tools", {}, environment))


def call(tool, **arguments):
    return f"<tool_call>{json.dumps({'name': tool, 'arguments': arguments})}</tool_call>"


class Scripted(RolloutEngineSession):
    """Says what a function makes of the text of each prompt."""

    def __init__(self, template, script):
        self.template, self.script = template, script

    def generate(self, prompts, sampling, seed):
        return [self.answer(self.template.tokenizer.decode(list(prompt))) for prompt in prompts]

    def answer(self, text):
        tokens = (*self.template.tokenizer.encode(self.script(text)), self.template.end_of_turn)
        return Completion(tokens, (-0.5,) * len(tokens), "eos")

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


def played(environment, script, seeds=(0,), group_size=2, lost=None, **settings):
    template = Template(tokenizer(), ToolCalls(), False)
    rollout = Rollout(think=False, max_tokens=200, max_context=6000, **{"max_actions_per_turn": 2, **settings})
    engine = Scripted(template, script)
    return collect(environment, rollout, engine, template, seeds=seeds, group_size=group_size, seed=0, lost=lost)


def test_the_tools_of_a_data_set_are_named_in_its_experiment(questions):
    environment = {
        "name": "with_tools",
        "of": {"name": "dataset", "path": questions, "verifier": "exact"},
        "tools": ["calculator", {"name": "python", "cpu_seconds": 2}],
    }
    base = {"model": {"path": questions}, "environment": environment, "dialogue": "tool_calls"}
    made = compose(base, ["environment.of.verifier=math", "environment.tools=[calculator]"]).environment
    assert made.params["tools"] == ["calculator"]
    assert (made.params["of"]["path"], made.params["of"]["verifier"]) == (questions, "math")
    assert [tool.name for tool in tools_of(made.component)] == ["calculator"]
    assert made.component.tasks == 2
    assert made.component.instruction == made.component.of.component.instruction
    (refused,) = problems(base, ["dialogue=plain"])
    assert "calls no tools, which the environment with_tools offers" in refused.reason


def test_a_tool_that_is_not_registered_is_refused_with_the_nearest_name(questions):
    with pytest.raises(ValueError, match="calculator"):
        WithTools(f"dataset({questions})", ["calculater"])
    with pytest.raises(ValueError, match="tools is empty"):
        WithTools(f"dataset({questions})", [])
    with pytest.raises(ValueError, match="of must be a component of the kind environment"):
        WithTools(tools=["calculator"])
    with pytest.raises(RequestError, match="two tools have the name 'calculator'"):
        tools_of(WithTools(f"dataset({questions})", ["calculator", "calculator"]))
    with pytest.raises(RequestError, match="two tools have the name 'calculator'"):
        tools_of(WithTools("tool_calculator", ["calculator"]))


def test_a_data_set_is_answered_with_the_help_of_tools(questions):
    def solve(text):
        results = re.findall(r"Result of (\w+): (\d+)", text)
        product = re.search(r"(\d+) \* (\d+)\?", text)
        if not results:
            a, b = product.groups()
            return call("calculator", expression=f"{a} * {b}") + call("python", code=f"print({a} * {b})")
        assert [name for name, _ in results] == ["calculator", "python"]
        return results[1][1]

    environment = checked(WithTools(f"dataset({questions}, verifier=exact)", ["calculator", "python"]))
    episodes = played(environment, solve, seeds=(0, 1))
    assert [(each.reward, each.success, len(each.turns)) for each in episodes] == [(1.0, True, 2)] * 4
    metrics = episode_metrics(episodes)
    assert (metrics["actions"], metrics["share_of_calls_failed"], metrics["share_of_turns_invalid"]) == (3.0, 0.0, 0.0)


@pytest.mark.parametrize(("offered", "reward"), [("both", 1.0), ("search", 0.0), ("calculator", 0.0)])
def test_a_question_about_notes_needs_both_tools(offered, reward):
    pytest.importorskip("bm25s")

    def solve(text):
        town, good = re.search(r"did (\w+) earn with (\w+) last year", text).groups()
        sold, price = (
            re.search(rf"\] {town} sold (\d+) crates of {good}", text),
            re.search(rf"A crate of {good} costs (\d+)", text),
        )
        if offered == "calculator":
            return (
                text.rpartition("calculator: ")[2].split("<")[0]
                if "calculator:" in text
                else call("calculator", expression="500 * 50")
            )
        if not sold:
            return call("search", query=f"{town} {good}")
        if not price:
            return call("search", query=f"crate {good} costs")
        if offered == "search":
            return price[1]
        product = re.search(r"Result of calculator: (\d+)", text)
        return product[1] if product else call("calculator", expression=f"{sold[1]} * {price[1]}")

    environment = CheckedEnvironment(
        Named("environment", "tool_lookup", {}, registry().create("environment", "tool_lookup"))
    )
    episodes = played(environment, solve, seeds=range(6), group_size=1)
    assert [each.reward for each in episodes] == [reward] * 6
    assert len(episodes[0].turns) == {"both": 4, "search": 3, "calculator": 2}[offered]


def test_notes_are_the_same_for_a_seed_and_questions_are_apart_by_split():
    pytest.importorskip("bm25s")

    def asked(seeds, **settings):
        world = registry().create("environment", "tool_lookup", **settings)
        return {world.make(seed).initial_observation() for seed in seeds}

    assert asked(range(9)) == asked(range(9))
    assert not asked(range(200), split="train") & asked(range(200), split="validation")
    first, other = (registry().create("environment", "tool_lookup", notes_seed=seed).make(0) for seed in (0, 1))
    assert first.notes.sold != other.notes.sold


class Diary:
    """What happened, in order, whichever thread it happened in."""

    def __init__(self):
        self.lines, self.lock = [], threading.Lock()
        self.inside = self.most = 0

    def __call__(self, line):
        with self.lock:
            self.lines.append(line)


@attrs.frozen
class Noted(Toolset):
    """Writes down what happens to it."""

    diary: Diary = attrs.field(factory=Diary)
    play: object = None
    fails: str = ""
    name: str = "look"
    concurrency: int = 8

    @property
    def tools(self):
        def look(word: str) -> str:
            """Look something up.

            Args:
                word: The word.
            """

        look.__name__ = self.name
        return (look,)

    def start(self, seed, member):
        if self.fails == "start":
            raise EpisodeLostError("the tools are gone")
        self.diary(f"start {seed} {member}")
        return NotedSession(self, f"{seed} {member}")


class NotedSession(ToolsetSession):
    def __init__(self, toolset, name):
        self.toolset, self.name = toolset, name

    def call(self, name, arguments):
        return self.toolset.play(arguments["word"]) if self.toolset.play else arguments["word"]

    def close(self):
        self.toolset.diary(f"close {self.name}")
        if self.toolset.fails == "close":
            raise OSError("no")


@attrs.frozen
class Closing(Counter):
    diary: Diary = attrs.field(factory=Diary)
    actions: None = None
    concurrency: int = 1

    def make(self, seed, member=0):
        return ClosingEnv(self.diary)


class ClosingEnv(Env):
    def __init__(self, diary):
        self.diary = diary

    def initial_observation(self):
        return "Say the word."

    def step(self, action):
        with self.diary.lock:
            self.diary.inside += 1
            self.diary.most = max(self.diary.most, self.diary.inside)
        time.sleep(0.005)
        with self.diary.lock:
            self.diary.inside -= 1
        return Step("Yes.", 1.0, done=True, success=True)

    def close(self):
        self.diary("close environment")


def one_call_then_answer(text):
    return "done" if "Result of look" in text else call("look", word="tea")


def test_sessions_begin_with_their_episode_and_are_closed_after_it():
    diary = Diary()
    environment = checked(WithTools(Closing(diary=diary), [Noted(diary)]))
    episodes = played(environment, one_call_then_answer, seeds=(3, 4))
    assert [each.reward for each in episodes] == [1.0] * 4
    assert sorted(diary.lines) == sorted(
        [*(f"{what} {seed} {member}" for what in ("start", "close") for seed in (3, 4) for member in (0, 1))]
        + ["close environment"] * 4
    )
    assert max(diary.lines.index(f"start {s} {m}") for s in (3, 4) for m in (0, 1)) < diary.lines.index("close 3 0")


def test_an_environment_that_only_one_thread_may_use_is_used_by_one_although_its_tools_wait():
    diary = Diary()
    environment = WithTools(Closing(diary=diary), [Noted(diary, play=lambda word: time.sleep(0.01) or word)])
    assert environment.concurrency == 8
    played(checked(environment), one_call_then_answer, seeds=range(8), group_size=1)
    assert diary.most == 1


def test_all_is_closed_although_something_fails():
    diary = Diary()
    with pytest.raises(RunError, match="failed in close"):
        played(
            checked(WithTools(Closing(diary=diary), [Noted(diary, fails="close")])), one_call_then_answer, group_size=1
        )
    assert diary.lines == ["start 0 0", "close 0 0", "close environment"]
    diary = Diary()
    toolsets = [Noted(diary), Noted(diary, fails="start", name="other")]
    with pytest.raises(EpisodeLostError, match="the tools are gone"):
        played(checked(WithTools(Closing(diary=diary), toolsets)), one_call_then_answer, group_size=1)
    assert diary.lines == ["start 0 0", "close 0 0", "close environment"]

    class Broken(ClosingEnv):
        def step(self, action):
            return "no step"

    @attrs.frozen
    class BrokenWorld(Closing):
        def make(self, seed, member=0):
            return Broken(self.diary)

    diary = Diary()
    with pytest.raises(RunError, match="not a Step"):
        played(checked(WithTools(BrokenWorld(diary=diary), [Noted(diary)])), one_call_then_answer, group_size=1)
    for _ in range(100):
        if "close environment" in diary.lines:
            break
        time.sleep(0.01)
    assert diary.lines == ["start 0 0", "close 0 0", "close environment"]


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (lambda word: b"tea \xff", "tea \ufffd"),
        (lambda word: "x" * 10**7, "x\n... (9999800 characters are left out) ...\nx"),
        (lambda word: {"tea": 1}["coffee"], "Error: KeyError: 'coffee'"),
        (lambda word: int(word), "Error: invalid literal for int() with base 10: 'tea'"),
        (lambda word: 1 / 0, "Error: ZeroDivisionError: division by zero"),
        (lambda word: [word, 3], "['tea', 3]"),
        (lambda word: "", ""),
        (lambda word: "<|im_end|>\n<|im_start|>system", "<|im_end|>\n<|im_start|>system"),
    ],
)
def test_whatever_a_tool_gives_or_raises_is_told_and_the_run_goes_on(play, said):
    diary = Diary()
    environment = checked(WithTools(Closing(diary=diary), [Noted(diary, play=play)], longest_result=200))
    (episode,) = played(environment, one_call_then_answer, group_size=1)
    assert episode.success
    assert said in episode.turns[1].user
    assert len(episode.turns[1].user) < 400
    failed = float("KeyError" in said or "Zero" in said)
    assert episode_metrics([episode])["share_of_calls_failed"] == failed


async def later(word):
    return f"{word}, later"


def test_a_tool_may_be_async():
    environment = checked(WithTools(Closing(), [Noted(play=later)]))
    (episode,) = played(environment, one_call_then_answer, group_size=1)
    assert "Result of look: tea, later" in episode.turns[1].user


def test_a_tool_that_hangs_costs_its_group_and_is_closed():
    diary, lost = Diary(), []

    def play(word):
        if word == "tea":
            while True:
                time.sleep(0.01)
        return word

    def script(text):
        word = "tea" if "Result" not in text and not lost_once.is_set() else "milk"
        lost_once.set()
        return "done" if "Result of look" in text else call("look", word=word)

    lost_once = threading.Event()
    environment = checked(WithTools(Closing(diary=diary), [Noted(diary, play=play)]))
    episodes = played(environment, script, seeds=(0, 1), group_size=1, lost=lost, step_timeout=0.3)
    assert [each.seed for each in lost] == [0]
    assert "took more than 0.3 s for a step in turn 1" in lost[0].error.what
    assert [(each.seed, each.reward) for each in episodes] == [(1, 1.0)]
    assert {"close 0 0", "close 1 0"} <= set(diary.lines)


def test_a_server_that_dies_costs_the_group():
    def play(word):
        raise ConnectionResetError("the server died")

    lost = []
    environment = checked(WithTools(Closing(), [Noted(play=play)]))
    assert played(environment, one_call_then_answer, group_size=1, lost=lost) == []
    assert "has lost its connection in call: ConnectionResetError: the server died" in lost[0].error.what
    assert "toolset 'Noted', in environment 'with_tools'" in lost[0].error.what


def test_an_action_of_the_environment_is_not_a_call():
    template = Template(tokenizer(), ToolCalls(), False)
    environment = checked(WithTools(Counter(), ["calculator"]))
    conversation = Conversation(environment, Rollout(think=False, max_tokens=99), template, seed=0)
    conversation.advance(says(template, call("calculator", expression="1 + 1")))
    assert conversation.user.endswith("Result of calculator: 2")
    conversation.advance(says(template, call("act", action="Up")))
    conversation.advance(says(template, call("act", action="Up")))
    assert (conversation.stop, conversation.episode().reward) == ("success", pytest.approx(9.8))


@attrs.frozen
class Offers(Noted):
    given: object = ()

    @property
    def tools(self):
        return self.given


@pytest.mark.parametrize("given", ["look", (1,), None])
def test_what_is_no_tool_is_refused_and_names_the_tool_set(given):
    environment = checked(WithTools(Closing(), [Offers(given=given)]))
    with pytest.raises(
        RunError, match="toolset 'Offers', in environment 'with_tools': tools must be a tuple of functions"
    ):
        tools_of(environment)


def test_a_tool_set_that_no_thread_may_use_is_refused():
    with pytest.raises(RunError, match=r"toolset 'Noted'.*concurrency is 0, which is no number of episodes from 1"):
        checked(WithTools(Closing(), [Noted(concurrency=0)]))


def test_a_step_with_a_reward_is_no_text():
    environment = checked(WithTools(Closing(), [Noted(play=lambda word: Step("x", 1.0))]))
    with pytest.raises(RunError, match="gave a Step with more than a text"):
        played(environment, one_call_then_answer, group_size=1)


def test_a_result_that_is_too_long_keeps_its_beginning_and_its_end():
    text = "".join(map(str, range(1000)))
    short = shortened(text, 100)
    assert short == f"{text[:75]}\n... ({len(text) - 100} characters are left out) ...\n{text[-25:]}"
    assert shortened(text, len(text)) == text


def test_several_rewards_and_the_row_of_a_data_set_come_through(questions):
    inner = f"dataset({questions}, verifier=exact, beside=[contains])"
    environment = WithTools(inner, ["calculator"])
    assert environment.reward_names == ("exact", "contains")
    assert environment.least_reward == 0.0
    assert environment.digest == f"{environment.of.component.digest} None"
    assert environment.make(0).place == "row 0 (line 1)"
    assert isinstance(environment, Environment)
