from __future__ import annotations

import pytest
from uncollapse.plugins.report.likeness import Likeness, likeness


def answers(*pairs):
    return [{"turns": [{"user": prompt, "response": response}]} for prompt, response in pairs]


def test_one_answer_to_everything_is_a_template():
    alike = likeness(answers(("1+1?", "it is 7"), ("2+2?", " it is 7\n"), ("3+3?", "it is 7"), ("3+3?", "it is 8")))
    assert alike == Likeness(4, 3, 2, "it is 7", 3, pytest.approx((3 * 1.0 + 2 * 0.5) / 5))
    assert alike.sentence == (
        "2 of 4 responses are distinct (50%); the most frequent answers 3 of 3 prompts (100%); "
        "responses to different prompts have 80% of their words in common"
    )


def test_repetitions_within_a_prompt_are_no_template():
    """A policy without entropy says the same to the same prompt, and another thing to another one."""
    alike = likeness(answers(("1+1?", "2"), ("1+1?", "2"), ("2+2?", "4"), ("2+2?", "4")))
    assert (alike.distinct, alike.prompts_of_most_frequent, alike.overlap) == (2, 1, 0.0)
    assert likeness(answers(("1+1?", "2"), ("1+1?", "2"))).overlap is None
    assert "one prompt says nothing of templates" in likeness(answers(("1+1?", "2"))).sentence


def test_words_count_as_often_as_they_stand():
    # a a b, and a b b c: a and b in common of a a b b c
    assert likeness(answers(("x", "a a b"), ("y", "a b b c"))).overlap == pytest.approx(2 / 5)
    # two empty responses are the same
    assert likeness(answers(("x", ""), ("y", "  "))).overlap == 1.0


def test_the_first_response_counts_and_what_the_policy_saw_before_it_is_the_prompt():
    said = {"user": "go on", "response": "up"}
    episodes = [
        {"earlier": [["you are at 1", "ok"]], "turns": [said, {"user": "next", "response": "left"}]},
        {"earlier": [["you are at 2", "ok"]], "turns": [said, {"user": "next", "response": "down"}]},
        {"turns": []},
    ]
    alike = likeness(episodes)
    assert (alike.episodes, alike.prompts, alike.distinct, alike.prompts_of_most_frequent) == (2, 2, 1, 2)
    assert likeness([{"turns": []}]).sentence == "no episode was played"
