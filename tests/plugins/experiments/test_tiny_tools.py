"""A tiny model is cloned from scripted calls of a tool, by a tokenizer that can spell them."""

import json
import random
import re
from itertools import islice

import attrs
import pytest
import uncollapse
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.compose.config import problems, validation_environment
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError, RunError
from uncollapse.plugins.dialogue.boxed import Boxed
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.environments.bandit import Bandit
from uncollapse.plugins.environments.common import split_of
from uncollapse.plugins.environments.countdown import Countdown
from uncollapse.plugins.environments.tools.tool_calculator import ToolCalculator
from uncollapse.plugins.experiments.cloned_qwen2 import ClonedQwen2
from uncollapse.plugins.experiments.conversations import conversations
from uncollapse.plugins.experiments.pieces import build_pieces
from uncollapse.plugins.experiments.tiny_qwen2 import TinyQwen2
from uncollapse.plugins.rollout.demonstrations import demonstrations
from uncollapse.plugins.rollout.rows import episode_metrics
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training.networks.models import load_tokenizer

WORLD = ToolCalculator(largest=50, split="train")
ROLLOUT = Rollout(max_turns=4, max_actions_per_turn=1, max_actions=4, max_tokens=24, max_context=512)


@pytest.fixture(scope="module")
def pieces():
    return build_pieces(conversations(WORLD, ROLLOUT, ToolCalls(), seed=0, episodes=40), ToolCalls().tags, 768)


def played(pieces, noise, count=60, world=WORLD, rollout=ROLLOUT):
    return list(islice(demonstrations(world, rollout, Template(pieces, ToolCalls()), seed=0, noise=noise), count))


# --- the tokenizer --------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_from_its_pieces_unchanged(text):
    tokenizer = _small()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def _small(made=[]):  # noqa: B006 - a cache
    made.append(made[0] if made else build_pieces(["What is 1 + 1?"] * 5, ["<tool_call>"]))
    return made[0]


def test_a_call_is_a_few_pieces_and_its_digits_are_pieces_of_their_own(pieces):
    call = '<tool_call>\n{"name": "calculator", "arguments": {"expression": "75 + 98"}}\n</tool_call>'
    spelled = [pieces.decode([token]) for token in pieces.encode(call)]
    assert [text for text in spelled if text.isdigit()] == ["7", "5", "9", "8"]
    assert (spelled[0], spelled[-1], len(spelled)) == ("<tool_call>", "</tool_call>", 9)


def test_pieces_are_those_of_the_texts_and_no_more_than_allowed(pieces):
    texts = list(conversations(WORLD, ROLLOUT, ToolCalls(), seed=0, episodes=40))
    again = build_pieces(texts, ToolCalls().tags, 768)
    assert again.get_vocab() == pieces.get_vocab()
    assert len(again) <= 768
    assert len(build_pieces(texts, ToolCalls().tags, 300)) == 300


def test_the_chat_template_describes_tools_and_reads_their_calls(pieces):
    dialogue = Template(pieces, ToolCalls()).dialogue
    assert (dialogue.format, dialogue.listing) == ("hermes", "template")


def test_prompts_describe_the_tool_once_and_only_grow(pieces):
    for episode in played(pieces, 0.5, 20):
        text = pieces.decode(list(episode.turns[-1].prompt))
        assert text.count('"description": "Calculate one sum') == 1
        assert text.startswith("<|im_start|>system\nYou are a helpful assistant.\nAnswer the question.")
        for turn, after in zip(episode.turns, episode.turns[1:], strict=False):
            assert after.prompt[: len(turn.prompt) + len(turn.tokens)] == (*turn.prompt, *turn.tokens)


# --- the demonstrator -----------------------------------------------------------------------------------------------


def test_scripted_calls_answer_every_question(pieces):
    episodes = played(pieces, 0.0)
    assert all(episode.success and len(episode.turns) == 3 for episode in episodes)
    first = episodes[0]
    a, b, c = map(int, re.findall(r"\d+", first.turns[0].user))
    called = [json.loads(turn.answer.calls[0].arguments)["expression"] for turn in first.turns[:2]]
    assert [*called, first.turns[2].response] == [f"{a} + {b}", f"{a + b} * {c}", str((a + b) * c)]
    assert max(len(turn.tokens) for episode in episodes for turn in episode.turns) <= ROLLOUT.max_tokens


def test_mistakes_fail_and_some_of_their_calls_are_wrong(pieces):
    half, all_wrong = (episode_metrics(played(pieces, noise, 50)) for noise in (0.3, 1.0))
    assert 0.25 < half["success"] < 0.65
    assert all_wrong["success"] == 0.0
    assert all_wrong["share_of_calls_wrong"] > half["share_of_calls_wrong"] > 0.02
    assert all_wrong["share_of_calls_unknown"] == all_wrong["share_of_calls_broken"] == 0.0


def test_a_demonstrator_mends_what_went_wrong():
    env = WORLD.make(0)
    a, b, c = map(int, re.findall(r"\d+", env.initial_observation()))
    assert env.call("calculator", {"expression": f"({a} + {b}) * {c}"}).observation.startswith("Error")
    for step in (f"{a} + {b}", f"{a + b} * {c}"):
        assert json.loads(env.demonstrate(1, 0.0, random.Random(0))[1][0])["arguments"] == {"expression": step}
        env.call("calculator", {"expression": step})
    assert env.demonstrate(1, 0.0, random.Random(0)) == ("", (str((a + b) * c),))


def test_questions_of_training_and_validation_are_apart():
    keys = {
        split: {attrs.evolve(WORLD, split=split).make(seed).key for seed in range(300)}
        for split in ("train", "validation")
    }
    assert not keys["train"] & keys["validation"]
    assert {split_of(key) for key in keys["validation"]} == {"validation"}
    with pytest.raises(RunError, match="no task was found"):
        ToolCalculator(largest=2, split=({"train", "validation"} - {split_of("(2 + 2) * 2")}).pop()).make(0)


def test_countdown_is_demonstrated_in_any_dialogue():
    for dialogue in (ThinkAnswer(), Boxed()):
        template = Template(build_pieces([], dialogue.tags), dialogue)
        spelled = attrs.evolve(ROLLOUT, max_context=9000)
        right, random_ = (
            episode_metrics(list(islice(demonstrations(Countdown(), spelled, template, 0, noise), 40)))
            for noise in (0.0, 1.0)
        )
        assert (right["success"], right["share_of_turns_invalid"]) == (1.0, 0.0)
        assert (random_["success"] < 0.1, random_["share_of_played_actions_accepted"]) == (True, 1.0)


@pytest.mark.parametrize(
    "said", [None, "Up", ("", "Up"), ("", ()), ("", ("Up", "Up", "Up")), ("", ("Sideways",)), ("", (1,))]
)
def test_a_demonstrator_that_says_no_action_is_named(said):
    class Walk(Env):
        def initial_observation(self):
            return "here"

        def step(self, action):
            return Step("there", 0.0, done=True)

        def demonstrate(self, most, noise, rng):
            return said

    @attrs.frozen
    class World(Environment):
        instruction, actions = "Walk.", ("Up",)

        @property
        def demonstrated(self):
            return self

        def make(self, seed, member=0):
            return Walk()

    with pytest.raises(RunError, match=r"Walk: demonstrate gave .*, not a thought and 1 to 2 of its actions"):
        list(conversations(World(), Rollout(), ThinkAnswer(), 0, 1))


# --- the builders and the experiments -------------------------------------------------------------------------------


def test_the_builder_says_what_the_experiment_says():
    experiment = uncollapse.compose("tiny-tools")
    builder = experiment.model.build.component
    names = ("max_turns", "max_actions_per_turn", "max_actions", "max_tokens")
    assert [getattr(builder, name) for name in names] == [getattr(experiment.rollout, name) for name in names]
    assert experiment.environment.component == WORLD
    assert validation_environment(experiment) == attrs.evolve(WORLD, split="validation")


def test_equal_parameters_give_equal_files(tmp_path):
    builder = ClonedQwen2(tokenizer="pieces", steps=2, batch=2, max_actions_per_turn=1, max_tokens=24)
    for name in ("one", "again"):
        builder.build(tmp_path / name, WORLD, ToolCalls())
    one, again = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "again"))
    assert one == again
    vocabularies = [load_tokenizer(tmp_path / name).get_vocab() for name in ("one", "again")]
    assert vocabularies[0] == vocabularies[1]


@pytest.mark.parametrize(
    ("world", "dialogue"), [(Bandit(), ThinkAnswer()), (WORLD, ToolCalls())], ids=["bandit", "tools"]
)
def test_a_model_that_has_learnt_nothing_reads_any_environment(tmp_path, world, dialogue):
    TinyQwen2(episodes=4).build(tmp_path, world, dialogue)
    text = world.make(7).initial_observation()
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == len(tokenizer)


WORDS = r"spells responses in words without white space, .*model\.build\.tokenizer=pieces"


@pytest.mark.parametrize(
    ("experiment", "settings", "key", "reason"),
    [
        ("tiny-tools", ["model.build.tokenizer=words"], "model.build", WORDS),
        ("tiny-tools", ["dialogue=think_answer"], "dialogue", "calls no tools, which the environment tool_calculator"),
        ("tiny-tools", ["dialogue=boxed"], "dialogue", "calls no tools"),
        ("tiny-tools", ["environment=bandit", "validation.environment=null"], "model.build", "bandit has none"),
        ("tiny-tools", ["model.build.tokenizer=letters"], "model.build.tokenizer", "one of words, pieces"),
        ("tiny-tools", ["model.build.pieces=100"], "model.build.pieces", "300"),
        ("tiny-tools", ["model.build.noise=1.5"], "model.build.noise", "1"),
        ("tiny-tools", ["model.build.hidden=12"], "model.build.hidden", "multiple of 8"),
        ("tiny-tools", ["model.path=mine"], "model", "needs exactly one of path and build, and has both"),
        ("tiny-tools", ["environment.largest=1"], "environment.largest", "2"),
        ("tiny-tools", ["environment.split=test"], "environment.split", "one of all, train"),
        ("tiny-sokoban", ["dialogue=tool_calls"], "model.build", WORDS),
        ("countdown-chat", ["model.path=null", "model.build=cloned_qwen2"], "model.build", WORDS),
        ("countdown-chat", ["model.path=null", "model.build=tiny_qwen2(layers=0)"], "model.build.layers", "1"),
    ],
)  # fmt: skip
def test_what_the_builder_cannot_say_is_refused_with_the_reason(experiment, settings, key, reason):
    found = {each.key: f"{each.reason} {each.fix}" for each in problems(experiment, settings)}
    assert re.search(reason, found[key]), found


def test_a_builder_that_is_called_by_hand_refuses_the_same(tmp_path):
    with pytest.raises(RequestError, match=r"(?s)needs it.*model\.build\.tokenizer=pieces"):
        ClonedQwen2(steps=1).build(tmp_path, WORLD, ToolCalls())
    with pytest.raises(RequestError, match=r"(?s)free text.*model\.build\.tokenizer=pieces"):
        ClonedQwen2(steps=1).build(tmp_path, Countdown(), ThinkAnswer())
