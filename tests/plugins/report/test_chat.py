"""Recorded episodes are chats: calls and results stand apart from what is said, whatever a model or a tool wrote."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from uncollapse.plugins.report.chat import HEAD, LETTERS, episode_of
from uncollapse.plugins.report.page import Fold, Section, render, visible

CALLS = [
    {"name": "search", "arguments": '{"query": "bridge", "k": 2}', "result": "a bridge\n" * 30},
    {"name": "weather", "arguments": '{"city": "Bonn"}', "fault": "unknown", "result": "Error: there is no tool"},
    {"name": "", "arguments": "{}", "fault": "broken", "result": "Error: it cannot be read"},
    {"name": "search", "arguments": '{"query": "river"}', "result": None},
]
TURN = {
    "user": "Where?",
    "response": "I look.<tool_call>...",
    "thought": "I look.",
    "calls": CALLS,
    "actions": ["search"],
    "valid": False,
    "reward": 0.25,
    "rewards": {"right": 0.5, "judge": None},
    "penalty": 0.1,
    "tokens": 40,
    "stop_reason": "length",
}
TOLD = "\n".join(call["result"] for call in CALLS[:3])
LAST = {"user": TOLD, "response": "There.", "actions": ["There."], "valid": True, "reward": 1.0, "tokens": 3}
RECORD = {
    "group": 7,
    "member": 1,
    "reward": 1.15,
    "success": True,
    "stop": "success",
    "system": "Help.",
    "earlier": [["1 + 1?", "2"]],
    "turns": [TURN, LAST],
    "ending": "Right.",
}


def page(*records):
    return render("t", "s", [], [Section("x", folds=[Fold("run", episodes=[episode_of(each) for each in records])])])


def test_calls_results_and_rewards_are_told_apart_in_their_order():
    episode = episode_of(RECORD)
    assert [(each.who, each.text, each.note) for each in episode.messages if each.who != "result"] == [
        ("system", "Help.", ""),
        ("user", "1 + 1?", "before the first turn"),
        ("assistant", "2", "before the first turn"),
        ("user", "Where?", ""),
        (
            "assistant",
            "I look.",
            "turn 1, 40 tokens, cut at max_tokens, reward 0.25 (right 0.50, judge missing), format penalty 0.10, "
            "invalid",
        ),
        ("call", "query: bridge\nk: 2", "search"),
        ("call", "city: Bonn", "weather"),
        ("call", "", "a call"),
        ("call", "query: river", "search"),
        ("sampled", "I look.<tool_call>...", ""),
        ("assistant", "There.", "turn 2, 3 tokens, reward 1.00"),
        ("environment", "Right.", "after the last turn"),
    ]
    results = [each for each in episode.messages if each.who == "result"]
    assert [(each.note, each.outcome) for each in results] == [
        ("search", ""),
        ("weather", "failed"),
        ("", "failed"),
        ("not called: the episode was over", ""),
    ]
    assert results[0].text + "\n" + results[0].rest == CALLS[0]["result"]  # long results are folded
    assert results[0].text == "a bridge\n" * 13 + "a bridge"
    faults = [chip.text for each in episode.messages if each.who == "call" for chip in each.chips]
    assert faults == ["no such tool", "cannot be read"]
    assert [chip.text for chip in episode.chips] == ["success", "reward 1.15"]


def test_results_that_the_record_has_cut_are_shown_in_the_next_message_too():
    cut = {**TURN, "calls": [{**CALLS[0], "result": "a br ... (266 more characters)"}]}
    users = [each.text for each in episode_of({**RECORD, "turns": [cut, LAST]}).messages if each.who == "user"]
    assert len(users) == 3


def test_records_of_earlier_versions_are_chats_without_calls():
    old = {"reward": 1.0, "system": "", "turns": [{"user": "?", "response": "<tool_call>{}"}]}
    assert [(each.who, each.text) for each in episode_of(old).messages] == [
        ("user", "?"),
        ("assistant", "<tool_call>{}"),
    ]


def test_a_lost_episode_has_its_reason_in_the_place_of_turns():
    lost = {"group": 3, "member": 0, "reward": None, "stop": "lost", "lost": "the server is down", "turns": []}
    text = page(lost)
    assert "the server is down" in text
    assert "<span class='chip damaged'>lost</span>" in text
    assert "group 3, member 0" in text


@pytest.mark.parametrize(
    "damage", [{"calls": ["x"]}, {"calls": 3}, {"user": 3}, {"response": None}, {"reward": "much"}]
)
def test_what_is_no_record_is_an_error_that_the_report_expects(damage):
    with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
        page({**RECORD, "turns": [{**TURN, **damage}]})


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.depth = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.depth += tag in ("div", "details", "pre")

    def handle_endtag(self, tag):
        self.depth -= tag in ("div", "details", "pre")


BAD = "</pre></div></details><script>alert(1)</script><img src=x onerror=y>'\"&\x00\x1b[31m\x7f\x9b\u202e\ud800\r"


def test_nothing_that_a_model_or_a_tool_writes_is_markup_or_unseen():
    call = {"name": BAD, "arguments": json.dumps({BAD: BAD}), "fault": BAD, "result": BAD}
    turn = {**TURN, "user": BAD, "response": BAD, "thought": BAD, "rewards": {BAD: 1.0}, "calls": [call]}
    record = {
        **RECORD,
        "group": BAD,
        "stop": BAD,
        "system": BAD,
        "earlier": [[BAD, BAD]],
        "ending": BAD,
        "turns": [turn],
    }
    text = page(record, {"lost": BAD})
    found = Tags(text)
    assert not {"script", "img"} & set(found.tags)
    assert found.depth == 0
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)
    assert text.encode()
    assert visible("a\x1bb\tc\r\nd\x7f\u202e\ud800") == "a\\x1bb\tc\nd\\x7f\\u202e\\ud800"


def test_a_result_of_ten_million_characters_leaves_a_small_page():
    turn = {**TURN, "calls": [{**CALLS[0], "result": "x" * 10_000_000}]}
    text = page({**RECORD, "turns": [turn]})
    assert len(text) < LETTERS + 20_000
    assert "more characters are in the run&#39;s file" in text or "more characters are in the run's file" in text
    assert "x" * (HEAD + 1) not in text[: text.index("<summary>", text.index("class='message result"))]


def test_the_chat_has_two_themes_and_is_as_narrow_as_a_phone():
    text = page(RECORD)
    assert "prefers-color-scheme: dark" in text
    for who in ("system", "assistant", "call", "result"):
        assert f".message.{who} {{" in text
    light, dark = re.findall(r"(--page: [^}]*)}", text)
    names = re.findall(r"--[\w-]+(?=:)", light)
    assert names == re.findall(r"--[\w-]+(?=:)", dark)
    assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(names)
    assert not re.search(r"minmax\(\d\d\dpx,", text)
