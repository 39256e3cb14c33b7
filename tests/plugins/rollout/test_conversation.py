from __future__ import annotations

import pickle

import attrs
import pytest
from rollout_worlds import Counter, Scripted, Walk, says, tokenizer
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.template import Template

TEMPLATE = Template(tokenizer(), ThinkAnswer())


def play(*texts: str, world: Counter = Counter(), **settings) -> Conversation:  # noqa: B008
    conversation = Conversation(world, Rollout(**settings), TEMPLATE, seed=7)
    for text in texts:
        conversation.advance(says(TEMPLATE, text))
    return conversation


def act(*actions: str) -> str:
    return f"hm</think><answer>{' || '.join(actions)}</answer>"


def test_success():
    episode = play(act("up", "UP")).episode()
    assert (episode.stop, episode.success, episode.truncated) == ("success", True, False)
    assert episode.reward == pytest.approx(9.8)
    assert episode.turns[0].response == "<think>hm</think><answer>up || UP</answer>"
    assert episode.metrics == {"up": 1.0}


def test_the_environment_ends_the_episode_without_success():
    episode = play(act("Down", "Down")).episode()
    assert (episode.stop, episode.success, episode.truncated) == ("done", False, False)


def test_actions_after_the_end_are_not_taken():
    episode = play(act("Up", "Up", "Down"), max_actions_per_turn=3).episode()
    assert episode.turns[0].executed == 2
    assert episode.success


@pytest.mark.parametrize(
    ("settings", "texts", "stop"),
    [
        ({"max_turns": 2}, [act("Up"), act("Down")], "max_turns"),
        ({"max_actions": 3}, [act("Up", "Down"), act("Up", "Up")], "max_actions"),
        ({"max_turns": 2}, ["nonsense", "nonsense"], "max_turns"),
    ],
)
def test_truncation(settings, texts, stop):
    episode = play(*texts, **settings).episode()
    assert (episode.stop, episode.success, episode.truncated) == (stop, False, True)


def test_success_with_the_last_action_of_the_budget_is_a_success():
    assert play(act("Up", "Up"), max_actions=2, max_turns=1).episode().success


def test_penalties_count_but_are_never_shown():
    conversation = play(act("Up", "Jump"), format_penalty=0.5)
    turn = conversation.turns[0]
    assert (turn.reward, turn.penalty, turn.executed) == (-0.1, 0.5, 1)
    assert conversation.user == (
        "Reward:\n-0.1\nInvalid answer: keep to the actions and the reply format.\n"
        "Turn 2:\nState:\nat 1\nActions left: 9"
    )
    conversation.advance(says(TEMPLATE, act("Up")))
    assert conversation.episode().reward == pytest.approx(-0.1 - 0.5 + 9.9)


def test_an_unreadable_turn_changes_nothing_but_costs_the_penalty():
    conversation = play("Up")
    assert conversation.turns[0].penalty == 0.1
    assert conversation.user.endswith("Turn 2:\nState:\nseed 7 at 0\nActions left: 10")
    assert conversation.user.startswith("Reward:\n0\n")


def test_free_text():
    conversation = play("t</think><answer>one || two</answer>", world=Counter(actions=None))
    assert conversation.turns[0].answer.actions == ("one || two",)
    assert "Actions:" not in conversation.system


def test_max_context_reserves_room_for_a_whole_turn():
    first = len(play(max_tokens=50).prompt)
    second = len(play(act("Up"), max_tokens=50).prompt)
    assert play(act("Up"), max_tokens=50, max_context=second + 50).stop is None
    episode = play(act("Up"), max_tokens=50, max_context=second + 49).episode()
    assert (episode.stop, episode.truncated, len(episode.turns)) == ("max_context", True, 1)
    with pytest.raises(RequestError, match=f"the first prompt has {first} tokens"):
        play(max_tokens=50, max_context=first + 49)


def test_a_running_episode_is_not_handed_out():
    with pytest.raises(ValueError, match="not ended"):
        play().episode()


# --- what the model sees --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [-1, 1, 2, 3])
@pytest.mark.parametrize("mode", ["full", "limited_multi_turn", "single_turn"])
def test_windows(mode, window):
    texts = [act("Up"), act("Down"), "?", act("Up", "Down")]
    conversation = play(*texts, context_window=mode, window_turns=window)
    text = TEMPLATE.tokenizer.decode(list(conversation.prompt))
    shown = {k for k in range(1, 6) if f"Turn {k}:" in text}
    size = 5 if mode == "full" or window < 0 else window
    assert shown == set(range(6 - size, 6))
    assert text.count("<|im_start|>system") == 1
    assert text.count("<|im_start|>user") == (1 if mode == "single_turn" else size)
    assert text.count("hm</think>") == (0 if mode == "single_turn" else sum(k in shown for k in (1, 2, 4)))


def test_the_summary_of_a_single_turn_window():
    conversation = play(act("Up"), "?", context_window="single_turn", window_turns=-1)
    assert conversation.user == (
        "Turn 1:\nState:\nseed 7 at 0\nActions left: 10\nAnswer: Up\nReward:\n-0.1\n"
        "Turn 2:\nState:\nat 1\nActions left: 9\nAnswer: none\nReward:\n0\n"
        "Invalid answer: keep to the actions and the reply format.\n"
        "Turn 3:\nState:\nat 1\nActions left: 9"
    )


# --- collecting -----------------------------------------------------------------------------------------------------


def test_finished_conversations_leave_and_the_rest_go_on():
    class Mixed(Counter):
        def make(self, seed, member=0):
            walk = super().make(seed, member)
            walk.at = member
            return walk

    engine = Scripted(TEMPLATE, act("Up"))
    episodes = collect(Mixed(goal=2), Rollout(), engine, TEMPLATE, seeds=[3, 9], group_size=2, seed=0)
    assert [(episode.seed, episode.member, len(episode.turns)) for episode in episodes] == [
        (3, 0, 2), (3, 1, 1), (9, 0, 2), (9, 1, 1)
    ]  # fmt: skip
    assert [len(prompts) for prompts in engine.prompts] == [4, 2]


def test_sampling_seeds_differ_by_step_turn_and_groups_and_are_fixed():
    seen = []

    class Listens(Scripted):
        def generate(self, prompts, sampling, seed):
            seen.append((seed, sampling))
            return super().generate(prompts, sampling, seed)

    for seed, seeds in [(0, [1]), (1, [1]), (0, [2]), (0, [1])]:
        settings = Rollout(max_turns=2, max_tokens=9)
        collect(
            Counter(), settings, Listens(TEMPLATE, "?"), TEMPLATE, seeds=seeds, group_size=1, seed=seed, temperature=0.5
        )
    assert len({seed for seed, _ in seen}) == 6
    assert seen[0] == seen[6]
    assert seen[0][0] == 6359990723802007842
    assert {(sampling.temperature, sampling.max_tokens) for _, sampling in seen} == {(0.5, 9)}


def test_episodes_are_plain_data():
    episode = play(act("Up", "Up")).episode()
    assert pickle.loads(pickle.dumps(episode)) == episode


@attrs.frozen
class Floods(Counter):
    def make(self, seed, member=0):
        return Flood(self, seed)


class Flood(Walk):
    def step(self, action):
        return attrs.evolve(super().step(action), observation="x" * 10_000_000)


def test_an_observation_of_ten_megabytes_ends_the_episode_untokenised(monkeypatch):
    conversation = play(world=Floods())
    monkeypatch.setattr(conversation, "_ask", None)
    conversation.advance(says(TEMPLATE, act("Up")))
    assert (conversation.stop, conversation.episode().reward) == ("max_context", -0.1)
