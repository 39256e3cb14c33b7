"""``uncollapse transcripts`` shows the episodes that a run has recorded, in a terminal or as a page."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main

CALL = {"name": "look", "arguments": '{"at": "\u202e<b>"}', "fault": "wrong", "result": "Error\x1b[2J: " + "why " * 300}
TURN = {"user": "Where?", "response": "<tool_call>", "thought": "", "calls": [CALL], "reward": 0.5, "valid": False}
RECORD = {"group": 4, "member": 0, "reward": 0.4, "stop": "max_turns", "success": False, "system": "", "turns": [TURN]}
LOST = {
    "group": 5,
    "member": 1,
    "reward": None,
    "stop": "lost",
    "lost": "the server is down",
    "system": "",
    "turns": [],
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("{}")
    for step, records in ((2, [RECORD]), (10, [RECORD, LOST])):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / "run" / "rollouts" / f"step_{step}.jsonl").write_text(lines)
    return tmp_path / "run"


def invoke(*words):
    return CliRunner().invoke(main, ["transcripts", *map(str, words)])


def test_the_last_step_is_printed_as_a_chat_that_cannot_steer_the_terminal(run):
    answer = invoke(run)
    assert answer.exit_code == 0
    assert answer.output.splitlines()[:8] == [
        "step 10",
        "",
        "group 4, member 0 | max_turns | reward 0.40",
        "  user",
        "    Where?",
        "  assistant (turn 1, reward 0.50, invalid)",
        "  call (look, wrong arguments)",
        "    at: \\u202e<b>",
    ]
    assert "Error\\x1b[2J: why why" in answer.output
    assert "(711 more characters)" in answer.output
    assert "group 5, member 1 | lost" in answer.output
    assert "the server is down" in answer.output
    assert "\x1b" not in answer.output
    assert "group 5" not in invoke(run, "--step", 2).output


def test_records_are_printed_as_they_are(run):
    assert json.loads(invoke(run, "--json").output) == [RECORD, LOST]


def test_a_page_is_written(run, tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    answer = invoke(run, "--page", tmp_path / "page.html")
    assert answer.output == f"page: {tmp_path / 'page.html'}\n"
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<h1>Step 10 of run</h1>" in text
    assert text.count("<details open><summary><b>Episode ") == 2
    assert "the server is down" in text
    assert "&lt;b&gt;" in text


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--step", "3"], "give one of 2, 10", 2),
        (["--step", "0"], "'0' is no step", 2),
        (["--step", "2"], "an episode is damaged: KeyError: 'turns'", 1),
    ],
)
def test_what_cannot_be_shown_is_said(run, words, said, code):
    if code == 1:
        (run / "rollouts" / "step_2.jsonl").write_text('{"reward": 1, "system": ""}\n')
    answer = invoke(run, *words)
    assert (answer.exit_code, said in answer.output) == (code, True), answer.output


def test_a_run_without_episodes_says_which_setting_records_them(run, tmp_path):
    for file in (run / "rollouts").iterdir():
        file.unlink()
    answer = invoke(run)
    assert answer.exit_code == 2
    assert "train with trainer.log_rollouts above 0" in answer.output
    assert invoke(tmp_path).exit_code == 2
