"""``uncollapse transcripts RUN OTHER`` lays two runs side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.report.side_by_side import side_by_side


def episode(group: int, response: str, prompt: str = "", success: bool = False, member: int = 0):
    turn = {"user": prompt or f"{group} + 1?", "response": response, "reward": float(success), "valid": True}
    head = {"group": group, "member": member, "reward": float(success), "success": success, "stop": "done"}
    return {**head, "system": "Answer.", "turns": [turn]}


LOST = {
    "group": 9,
    "member": 0,
    "reward": None,
    "success": False,
    "stop": "lost",
    "lost": "x",
    "system": "",
    "turns": [],
}


def written(path: Path, steps: dict[int, list], environment: str = "sokoban", **metrics) -> Path:
    run = RunDirectory.create(path, {"environment": {"name": environment}}, {})
    for step in range(1, 7):
        run.append_metrics(step, {name: values[step] for name, values in metrics.items() if step in values})
    run.set_status("success", step=6)
    (path / "rollouts").mkdir(exist_ok=True)
    for step, records in steps.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (path / "rollouts" / f"step_{step}.jsonl").write_text(lines)
    return path


@pytest.fixture
def healthy(tmp_path):
    right = [episode(group, f"it is {group + 1}", success=True) for group in range(3)]
    steps = {step: [*right, LOST] for step in (1, 2, 4, 6)}
    entropy = {"actor/entropy": {1: 2.0, 6: 1.5}, "validation/success": {4: 0.75}}
    return written(tmp_path / "healthy", steps, **entropy)


@pytest.fixture
def collapsed(tmp_path):
    said = [episode(group, "it is 7") for group in (2, 1, 5)]
    return written(tmp_path / "collapsed", {1: said, 2: said, 6: said, 5: said}, **{"actor/entropy": {6: 0.01}})


def invoke(*words):
    return CliRunner().invoke(main, ["transcripts", *map(str, words)])


def test_the_same_tasks_of_the_same_step_stand_side_by_side(healthy, collapsed):
    both = side_by_side((RunDirectory(healthy), RunDirectory(collapsed)))
    assert both.names == ("healthy", "collapsed")
    (step,) = both.steps
    assert (step.step, step.in_common) == (6, True)
    pairs = [(task.prompt, *(record["turns"][0]["response"] for record in task.records)) for task in step.tasks]
    assert pairs == [("1 + 1?", "it is 2", "it is 7"), ("2 + 1?", "it is 3", "it is 7")]
    assert [side.unmatched for side in step.sides] == [1, 1]
    assert [side.alike.distinct for side in step.sides] == [3, 1]
    assert [side.alike.prompts_of_most_frequent for side in step.sides] == [1, 3]
    # "it is" of "it is 1 2": the words of two right answers
    assert [side.alike.overlap for side in step.sides] == [pytest.approx(2 / 4), 1.0]
    assert step.sides[0].facts["validation success"] == (4, 0.75)
    assert step.sides[1].facts["validation success"] is None


def test_the_terminal_says_how_alike_the_responses_are(healthy, collapsed):
    answer = invoke(healthy, collapsed)
    assert answer.exit_code == 0, answer.output
    lines = answer.output.splitlines()
    text = " ".join(answer.output.split())
    assert "validation success 0.750 (step 4) not measured" in text
    assert "entropy (nats per token) 1.500 0.010" in text
    assert "healthy: 3 of 3 responses are distinct (100%); the most frequent answers 1 of 3 prompts (33%)" in text
    assert "collapsed: 1 of 3 responses are distinct (33%); the most frequent answers 3 of 3 prompts (100%)" in text
    assert "100% of their words in common. collapsed says most often: it is 7" in text
    assert "healthy says most often" not in text
    assert "left out here: 1 of healthy, 1 of collapsed." in text
    # next to each other: one line has both answers
    assert any("it is 2" in line and "it is 7" in line for line in lines)


def test_neither_responses_nor_names_steer_the_terminal(tmp_path, healthy):
    said = [episode(group, "\x1b[2J[bold]7") for group in range(3)]
    answer = invoke(healthy, written(tmp_path / "[red]x", {6: said}))
    assert answer.exit_code == 0
    assert "\x1b" not in answer.output
    assert "[red]x says most often: \\x1b[2J[bold]7" in answer.output
    assert any(line.split() == ["healthy", "[red]x"] for line in answer.output.splitlines())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [6]),
        (["--step", "first,middle,last"], [1, 2, 6]),
        (["--step", "2"], [2]),
        (["--step", "last, 1,6"], [6, 1]),
    ],
)
def test_steps_are_those_that_both_have_recorded(healthy, collapsed, words, expected):
    data = json.loads(invoke(healthy, collapsed, "--json", *words).stdout)
    assert [step["step"] for step in data["steps"]] == expected
    assert [len(step["tasks"]) for step in data["steps"]] == [2] * len(expected)


def test_words_for_steps_hold_for_one_run_too(healthy):
    assert [invoke(healthy, "--step", word).output.splitlines()[0] for word in ("first", "middle", "last")] == [
        "step 1",
        "step 4",
        "step 6",
    ]


def test_further_episodes_of_a_task_stand_beside_nothing(tmp_path, collapsed):
    many = [episode(1, "it is 2", member=member) for member in range(2)]
    both = side_by_side((RunDirectory(written(tmp_path / "many", {6: many})), RunDirectory(collapsed)))
    assert [[record and record["member"] for record in task.records] for task in both.steps[0].tasks] == [
        [0, 0],
        [1, None],
    ]
    assert "no further episode" in invoke(tmp_path / "many", collapsed).output


def test_without_a_task_in_common_it_says_so_and_shows_both(tmp_path, collapsed):
    other = written(tmp_path / "other", {6: [episode(1, "blue", prompt="Which colour?")]})
    answer = invoke(other, collapsed)
    assert answer.exit_code == 0
    assert "No task of this step is recorded by both runs" in " ".join(answer.output.split())
    assert "Which colour?" in answer.output and answer.output.count("it is 7") >= 3


def test_runs_of_one_name_are_told_apart(tmp_path, healthy):
    again = written(tmp_path / "b" / "healthy", {6: [episode(0, "it is 1")]})
    both = side_by_side((RunDirectory(healthy), RunDirectory(again)))
    assert both.names == (f"{tmp_path.name}/healthy", "b/healthy")


def test_the_page_has_both_and_is_escaped(healthy, tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    steps = {step: [episode(1, "<b>7</b>")] for step in (1, 6)}
    other = written(tmp_path / "collapsed", steps)
    answer = invoke(healthy, other, "--step", "first,last", "--page", tmp_path / "page.html")
    assert answer.output == f"page: {tmp_path / 'page.html'}\n"
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "<h1>healthy beside collapsed</h1>" in text
    assert [f"<h2>Step {step}</h2>" in text for step in (1, 2, 6)] == [True, False, True]
    assert text.count("<div class='versus'>") == 2
    assert "&lt;b&gt;7&lt;/b&gt;" in text and "<b>7</b>" not in text


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["HEALTHY", "HEALTHY"], "it is the same run twice", 2),
        (["HEALTHY", "HEALTHY/../healthy"], "it is the same run twice", 2),
        (["HEALTHY", "COLLAPSED", "--step", "4"], "no episodes of step 4 are recorded", 2),
        (["HEALTHY", "COLLAPSED", "--step", "4"], "give one of 1, 2, 6", 2),
        (["HEALTHY", "COLLAPSED", "--step", "end"], "'end' is no step", 2),
        (["HEALTHY", "COLLAPSED", "HEALTHY"], "one run is shown, or two side by side: 3 were given", 2),
        (["HEALTHY", "--step", "1,2"], "of one run one step is shown", 2),
        ([], "Missing argument", 2),
        (["HEALTHY", "ELSEWHERE"], "the runs have different environments, sokoban and countdown", 2),
        (["HEALTHY", "SILENT"], "train with trainer.log_rollouts above 0", 2),
        (["HEALTHY", "ODD"], "the runs have recorded no step in common: 1, 2, 4, 6, and 3", 2),
        (["HEALTHY", "DAMAGED"], "an episode is damaged: KeyError: 'response'", 1),
    ],
)
def test_what_cannot_be_shown_is_said(healthy, collapsed, tmp_path, words, said, code):
    written(tmp_path / "elsewhere", {6: [episode(0, "x")]}, environment="countdown")
    written(tmp_path / "silent", {})
    written(tmp_path / "odd", {3: [episode(0, "x")]})
    written(tmp_path / "damaged", {6: [{**episode(0, "x"), "turns": [{"user": "?"}]}]})
    names = {name.upper(): str(tmp_path / name) for name in ("elsewhere", "silent", "odd", "damaged")}
    names |= {"HEALTHY": str(healthy), "COLLAPSED": str(collapsed)}
    for name, path in names.items():
        words = [word.replace(name, path) for word in words]
    answer = invoke(*words)
    assert (answer.exit_code, said in answer.output) == (code, True), answer.output
