"""Which tokens are a thought, and what is drawn."""

from collections import Counter
from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_worlds import LLAMA3, THINKING, says, tokenizer
from rollout_worlds import Counter as NumberLine
from uncollapse.core.components import RolloutEngineSession
from uncollapse.core.compose.experiment import Reward, Rollout
from uncollapse.plugins.collapse.mutual_information_samples import (
    Turn,
    first_turns,
    identical,
    thought,
    trajectories,
    turns_of,
    uniform_turns,
)
from uncollapse.plugins.dialogue.boxed import Boxed
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.experiments.tokenizer import build_tokenizer
from uncollapse.plugins.rollout import rows
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.template import Template

BYTES = tokenizer()
WORDS = build_tokenizer(["box is Up left target is Down the a b"])
ANSWER = "<answer>Up</answer>"
TAG = ThinkAnswer().thought_end


def spelled(words, tokens):
    return words.decode(list(tokens), clean_up_tokenization_spaces=False)


# --- where a thought ends -------------------------------------------------------------------------------------------


def test_the_words_before_the_tag():
    sampled = WORDS.encode(f"box is Up </think>{ANSWER}", add_special_tokens=False)
    assert spelled(WORDS, thought(sampled, WORDS, TAG)) == "box is Up"


def test_a_tag_of_several_tokens_that_swallow_their_neighbours():
    sampled = BYTES.encode(f"go Up then Down</think>{ANSWER}", add_special_tokens=False)
    pieces = [spelled(BYTES, [token]) for token in sampled]
    assert "</think>" not in pieces  # or this would be no test
    assert any(piece.startswith("><") for piece in pieces)
    assert spelled(BYTES, thought(sampled, BYTES, TAG)) == "go Up then Down"


def test_a_token_that_holds_the_end_of_the_thought_and_the_beginning_of_the_tag_is_left_out():
    class Joined:
        pieces = ("go Up", ".</", "th", "ink>", "<answer>")

        def decode(self, ids, **_):
            return "".join(self.pieces[index] for index in ids)

    assert thought([0, 1, 2, 3, 4], Joined(), TAG) == (0,)
    assert thought([1, 2, 3], Joined(), TAG) == ()  # no token of its own
    assert thought([0, 2, 3, 4], Joined(), TAG) == ()  # that is no tag


@pytest.mark.parametrize("words", [BYTES, WORDS])
@pytest.mark.parametrize("text", ["box is Up", f"</think>{ANSWER}", f" \n </think>{ANSWER}", "", "box </ think>"])
def test_no_tag_or_nothing_before_it_is_no_thought(words, text):
    assert thought(words.encode(text, add_special_tokens=False), words, TAG) == ()


def test_an_end_of_turn_and_a_second_tag_change_nothing():
    end = Template(BYTES, ThinkAnswer()).end_of_turn
    for text in (f"a b</think>{ANSWER}", f"a b</think></think>{ANSWER} c</think>"):
        sampled = [*BYTES.encode(text, add_special_tokens=False), end]
        assert spelled(BYTES, thought(sampled, BYTES, TAG)) == "a b"


def test_the_thought_of_a_box_ends_at_the_last_one():
    sampled = BYTES.encode(r"a b \boxed{a} c \boxed{b}", add_special_tokens=False)
    assert spelled(BYTES, thought(sampled, BYTES, Boxed().thought_end)).strip() == "a b"
    assert spelled(BYTES, thought(sampled, BYTES, Boxed().thought_end, last=True)).strip() == r"a b \boxed{a} c"


@given(st.text(st.sampled_from("ab.</>thinkéß🙂\n "), max_size=30), st.text(st.sampled_from("<>/ak\n"), max_size=6))
def test_the_boundary_is_that_of_the_characters(inside, after):
    text = f"{inside}</think>{after}"
    encoded = BYTES(text, add_special_tokens=False, return_offsets_mapping=True)
    tag = text.index("</think>")
    before = sum(end <= tag for _, end in encoded["offset_mapping"])
    expected = tuple(encoded["input_ids"][:before])
    found = thought(encoded["input_ids"], BYTES, TAG)
    assert found == (expected if spelled(BYTES, expected).strip() else ())


# --- turns of rollouts ----------------------------------------------------------------------------------------------


@attrs.frozen
class Talks(RolloutEngineSession):
    """Says another thing in every turn to every prompt."""

    template: Template
    asked: list = attrs.field(factory=list)

    def generate(self, prompts, sampling, seed):
        self.asked.append(prompts)
        turn = len(self.asked)
        texts = [f"{'a ' * (index + 1)}{'b ' * turn}" for index in range(len(prompts))]
        return [says(self.template, f"{text}</think><answer>Up</answer>") for text in texts]

    def sync(self, weights):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


class Members(NumberLine):
    """A world whose first prompt depends on the member."""

    def make(self, seed, member=0):
        return super().make(10 * seed + member // 2)


def played(template, world=NumberLine(goal=9), groups=3, size=2, **settings):  # noqa: B008
    rollout = Rollout(max_turns=3, max_context=2000, **settings)
    episodes = collect(world, rollout, Talks(template), template, seeds=range(groups), group_size=size, seed=0)
    return episodes, rows.build(episodes, rollout, Reward())


@pytest.mark.parametrize("mode", ["full", "limited_multi_turn", "single_turn"])
@pytest.mark.parametrize("words", [BYTES, WORDS, tokenizer(LLAMA3), tokenizer(THINKING)])
def test_prompts_and_thoughts_are_the_sampled_tokens_in_every_window(words, mode):
    episodes, rollouts = played(Template(words, ThinkAnswer()), context_window=mode, window_turns=2)
    turns = {(turn.episode, turn.number): turn for turn in turns_of(rollouts, words, TAG)}
    assert len(turns) == 3 * 2 * 3
    for index, episode in enumerate(episodes):
        for number, sampled in enumerate(episode.turns):
            turn = turns[index, number]
            assert turn.prompt == sampled.prompt
            assert spelled(words, turn.prompt).rstrip().endswith("<think>")
            assert turn.thought == sampled.tokens[: len(turn.thought)]
            assert spelled(words, turn.thought).split() == ["a"] * (index + 1) + ["b"] * (number + 1)
            assert turn.group == episode.seed


# --- draws ----------------------------------------------------------------------------------------------------------


def test_a_column_for_each_group_whose_members_agree():
    _, rollouts = played(Template(BYTES, ThinkAnswer()), size=4)
    pairs = first_turns(turns_of(rollouts, BYTES, TAG), 100, Random(0))
    assert len(pairs.columns) == len(set(pairs.columns)) == 3
    assert Counter(pairs.matched) == {0: 4, 1: 4, 2: 4}
    assert pairs.tasks == pairs.columns


def test_a_column_for_each_prompt_of_a_group_whose_members_differ():
    _, rollouts = played(Template(BYTES, ThinkAnswer()), Members(goal=9), size=4)
    turns = turns_of(rollouts, BYTES, TAG)
    pairs = first_turns(turns, 100, Random(0))
    assert len(set(pairs.columns)) == 6  # two prompts in each of three groups
    assert Counter(pairs.matched) == dict.fromkeys(range(6), 2)
    by_thought = {(turn.group, turn.thought): turn.prompt for turn in turns if turn.number == 0}
    own = {
        (pairs.columns[column], reasoning) for column, reasoning in zip(pairs.matched, pairs.reasonings, strict=True)
    }
    assert own == {(prompt, reasoning) for (_, reasoning), prompt in by_thought.items()}


def hand_made(episodes=6, numbers=3, invalid=()):
    """Two episodes to a group; every prompt and thought says whose it is."""
    return [
        Turn(e, e // 2, t, (9, e // 2, *([e, t] if t else [])), () if (e, t) in invalid else (e, t))
        for e in range(episodes)
        for t in range(numbers)
    ]


def test_first_turns_are_valid_and_drawn_once():
    turns = hand_made(invalid={(0, 0), (1, 0), (2, 0)})
    everything = first_turns(turns, 64, Random(0))
    assert sorted(everything.reasonings) == [(3, 0), (4, 0), (5, 0)]
    assert [everything.columns[column] for column in everything.matched] == [
        (9, e // 2) for e, _ in everything.reasonings
    ]
    assert len(everything.columns) == 2  # group 0 has no valid thought
    some = first_turns(hand_made(episodes=40), 8, Random(0))
    assert len(set(some.reasonings)) == len(some.reasonings) == 8


def test_trajectories_draw_episodes_alike_with_replacement_and_lose_invalid_ones():
    invalid = {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)}  # episode 0 says nothing valid, episode 1 only in its first turn
    turns = hand_made(episodes=4, numbers=3, invalid=invalid)
    found, lost, draws = Counter(), 0, 500
    for seed in range(draws):
        pairs = trajectories(turns, 64, Random(seed))
        assert pairs.matched == list(range(len(pairs.columns)))  # each draw has its own column
        lost += 12 - len(pairs.columns)  # as many draws as turns
        found.update(pairs.reasonings)
        for reasoning, prompt, task in zip(pairs.reasonings, pairs.columns, pairs.tasks, strict=True):
            episode, number = reasoning
            assert prompt == (9, episode // 2, *([episode, number] if number else []))
            assert task == (9, episode // 2)
    total = 12 * draws
    assert lost / total == pytest.approx(1 / 4, abs=0.03)
    assert found[1, 0] / total == pytest.approx(1 / 4, abs=0.03)
    assert found[2, 1] / total == pytest.approx(1 / 12, abs=0.02)
    assert len(trajectories(turns, 5, Random(0)).columns) <= 5


def test_uniform_turns_are_drawn_once_and_alike():
    turns = hand_made(episodes=4, numbers=3, invalid={(0, 0), (0, 1)})
    everything = uniform_turns(turns, 64, Random(0))
    assert sorted(everything.reasonings) == sorted(turn.thought for turn in turns if turn.thought)
    assert everything.matched == list(range(10))
    found = Counter(reasoning for seed in range(500) for reasoning in uniform_turns(turns, 5, Random(seed)).reasonings)
    assert found[0, 2] / 500 == pytest.approx(1 / 2, abs=0.08)
    assert found[3, 0] / 500 == pytest.approx(1 / 2, abs=0.08)


@pytest.mark.parametrize("draw", [first_turns, trajectories, uniform_turns])
def test_nothing_valid_is_nothing(draw):
    turns = hand_made(invalid={(e, t) for e in range(6) for t in range(3)})
    pairs = draw(turns, 64, Random(0))
    assert pairs.columns == pairs.reasonings == pairs.matched == []


# --- what is the same -----------------------------------------------------------------------------------------------


def said(*pairs):
    return [Turn(index, index, 0, (prompt,), tuple(thought)) for index, (prompt, thought) in enumerate(pairs)]


def test_equal_tasks_are_one_prompt_and_turns_without_a_thought_are_no_pair():
    turns = said((1, [7]), (1, [7]), (1, [8]), (2, [7]), (2, []), (3, [8]))
    # of the seven pairs across prompts: both 7 of prompt 1 with that of 2, and the 8 of 1 with that of 3
    assert identical(turns) == {"across_prompts": pytest.approx(3 / 7), "within_prompt": pytest.approx(1 / 3)}
    assert identical(said((1, [7]), (2, [7]))) == {"across_prompts": 1.0}
    assert identical(said((1, [7]), (1, [7]))) == {"within_prompt": 1.0}
    assert identical(said((1, [7]), (2, []))) == identical([]) == {}


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=2)), max_size=12))
def test_the_shares_are_those_of_all_pairs(pairs):
    turns = said(*pairs)
    valid = [turn for turn in turns if turn.thought]
    both = [(a, b) for index, a in enumerate(valid) for b in valid[index + 1 :]]
    expected = {}
    for name, same_prompt in (("across_prompts", False), ("within_prompt", True)):
        chosen = [a.thought == b.thought for a, b in both if (a.prompt == b.prompt) is same_prompt]
        if chosen:
            expected[name] = pytest.approx(sum(chosen) / len(chosen))
    assert identical(turns) == expected
