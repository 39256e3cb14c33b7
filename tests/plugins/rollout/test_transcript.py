"""An episode is recorded as text, with its calls and what became of them."""

from __future__ import annotations

import json

from rollout_worlds import Counter, Scripted, says, tokenizer
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import EpisodeLostError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.dialogue.tool_calls import ToolCalls
from uncollapse.plugins.rollout.collect import collect
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.episode import LONGEST_TOLD
from uncollapse.plugins.rollout.lost import LostGroup
from uncollapse.plugins.rollout.sampler_state import from_plain, group_of, to_plain
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.rollout.transcript import lost_transcript, transcript


def recorded(episode):
    return json.loads(json.dumps(transcript(episode)))


def test_a_transcript_is_json():
    template = Template(tokenizer(), ThinkAnswer())
    engine = Scripted(template, "?", "a</think><answer>Up||Up</answer>")
    (episode,) = collect(Counter(), Rollout(), engine, template, seeds=(8,), group_size=1, seed=0)
    record = recorded(episode)
    assert [record[key] for key in ("group", "member", "success", "stop")] == [8, 0, True, "success"]
    assert round(record["reward"], 6) == 9.7
    first, second = record["turns"]
    assert [first[key] for key in ("response", "valid", "penalty", "stop_reason")] == ["<think>?", False, 0.1, "eos"]
    assert (second["actions"], round(second["reward"], 6)) == (["Up", "Up"], 9.8)
    assert "calls" not in first
    assert record["ending"] == "at 2"  # what the last turn led to, which no prompt shows


class Phone(Env):
    earlier_turns = (("Who?", "Me."),)

    def initial_observation(self) -> str:
        return "Ring."

    def step(self, action: str) -> Step:
        return Step("gone", 0.0, done=True)

    def dial(self, number: int) -> str:
        """Dial a number.

        Args:
            number: The number.
        """
        if number == 0:
            return "x" * 10_000_000
        return Step(f"{number} answers", 1.0, done=number == 9)


class Phones(Environment):
    instruction = "Call."
    actions = None
    tools = (Phone.dial,)

    def make(self, seed: int, member: int = 0) -> Phone:
        return Phone()


def played(*texts):
    template = Template(tokenizer(), ToolCalls(), False)
    rollout = Rollout(think=False, max_tokens=300, max_actions_per_turn=4)
    conversation = Conversation(Phones(), rollout, template, seed=2)
    for text in texts:
        conversation.advance(says(template, text))
    return conversation.episode()


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_calls_are_recorded_with_their_faults_and_results():
    episode = played(
        "First. " + call("dial", number=5) + call("dail", number=5) + "<tool_call>{</tool_call>",
        call("dial", number="5") + call("dial", number=9) + call("dial", number=7),
    )
    record = recorded(episode)
    assert record["earlier"] == [["Who?", "Me."]]
    first, second = record["turns"]
    assert first["thought"] == "First."
    assert first["calls"] == [
        {"name": "dial", "arguments": '{"number": 5}', "result": "Result of dial: 5 answers"},
        {
            "name": "dail",
            "arguments": '{"number": 5}',
            "fault": "unknown",
            "result": "Result of dail: Error: there is no tool 'dail'; the tools are dial",
        },
        {
            "name": "",
            "arguments": "{}",
            "fault": "broken",
            "result": "Result of the call: Error: the call cannot be read: it is no JSON: "
            "Expecting property name enclosed in double quotes",
        },
    ]
    assert second["user"] == "\n".join(call["result"] for call in first["calls"])
    assert [(each.get("fault"), each["result"]) for each in second["calls"]][1:] == [
        (None, "Result of dial: 9 answers"),
        (None, None),  # the episode was over
    ]
    assert "ending" not in record
    group = group_of([episode], 0)
    assert from_plain(json.loads(json.dumps(to_plain(group)))) == group


def test_a_group_of_an_earlier_version_is_read_from_a_checkpoint():
    group = group_of([played(call("dial", number=9))], 0)
    plain = to_plain(group)
    (episode,) = plain["group of episodes"]["episodes"]
    del episode["earlier"], episode["ending"], episode["turns"][0]["results"]
    (read,) = from_plain(plain).episodes
    assert (read.earlier, read.turns[0].results, read.turns[0].tokens) == ((), (), group.episodes[0].turns[0].tokens)


def test_a_result_of_ten_million_characters_leaves_a_small_record():
    record = recorded(played(call("dial", number=0)))
    assert record["stop"] == "max_context"
    (made,) = record["turns"][0]["calls"]
    kept = LONGEST_TOLD - len("Result of dial: ")
    assert made["result"].endswith(f"xxx ... ({10_000_000 - kept} more characters)")
    assert len(json.dumps(record)) < 3 * LONGEST_TOLD


def test_a_lost_group_is_recorded_with_its_reason():
    lost = LostGroup(3, 1, EpisodeLostError("the server is down", "localhost"))
    assert lost_transcript(lost) == {
        "group": 3,
        "member": 1,
        "reward": None,
        "success": False,
        "stop": "lost",
        "lost": "the server is down (localhost)",
        "system": "",
        "turns": [],
    }
