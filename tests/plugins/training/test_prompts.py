"""Prompts are measured before training: one over-long row of a data set is refused at the start."""

import json
import re
import sys
from pathlib import Path

import attrs
import pytest
from uncollapse import compose, train
from uncollapse.core.compose.experiment import Rollout
from uncollapse.core.errors import RequestError
from uncollapse.core.registry import registry
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.environments.dataset import Dataset
from uncollapse.plugins.rollout import room
from uncollapse.plugins.rollout.conversation import Conversation
from uncollapse.plugins.rollout.room import require_room, tasks_of
from uncollapse.plugins.rollout.template import Template
from uncollapse.plugins.training import prompts
from uncollapse.plugins.training.prompts import require_rooms

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from rollout_worlds import Counter, tokenizer

LONG = "Add " + " + ".join(["1"] * 224)  # 897 characters
ROLLOUT = Rollout(max_tokens=6, max_context=700, max_turns=1)


@pytest.fixture
def sums(tmp_path):
    """Writes a data set in which some questions are long."""

    def write(long=(9,), rows=12, question=LONG, name="sums.jsonl"):
        content = [{"question": question if row in long else f"{row} + 1?", "answer": row + 1} for row in range(rows)]
        (tmp_path / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
        return str(tmp_path / name)

    return write


def refusal(path, rollout=ROLLOUT, seeds=range(100), **parameters):
    with pytest.raises(RequestError) as caught:
        require_room(Dataset(path, **parameters), rollout, Template(tokenizer(), ThinkAnswer()), seeds)
    return caught.value


def test_a_run_with_an_over_long_row_is_refused_before_it_starts(bandit, sums, tmp_path):
    path, run = sums(), tmp_path / "run"
    experiment = {
        **bandit,
        "environment": {"name": "dataset", "path": path, "verifier": "exact"},
        "rollout": {**bandit["rollout"], "max_context": 700},
        "validation": {"every": 0},
    }
    with pytest.raises(RequestError) as caught:
        train(experiment, run)
    what = (
        r"1 of 12 first prompts leave no room for a turn of 6 tokens: row 9 \(line 10\) \(\d+ tokens, 897 characters\)"
    )
    assert re.fullmatch(what, caught.value.what)
    assert "environment.longest=896 (characters)" in caught.value.fix
    assert not run.exists()
    short = {**experiment["environment"], "longest": 896}
    steps = {**bandit["trainer"], "steps": 3, "save_last": False}
    assert train({**experiment, "environment": short, "trainer": steps}, run).status == "success"


def test_the_message_says_what_would_do(sums):
    path = sums(long=(1, 4, 9))
    tokens = len(
        Conversation(
            Dataset(path), attrs.evolve(ROLLOUT, max_context=2000), Template(tokenizer(), ThinkAnswer()), 9
        ).prompt
    )
    error = refusal(path)
    assert error.what.count("897 characters") == 3
    assert f"set rollout.max_context to {tokens + 6} or more" in error.fix
    require_room(
        Dataset(path), attrs.evolve(ROLLOUT, max_context=tokens + 6), Template(tokenizer(), ThinkAnswer()), range(100)
    )
    with pytest.raises(RequestError):
        require_room(
            Dataset(path),
            attrs.evolve(ROLLOUT, max_context=tokens + 5),
            Template(tokenizer(), ThinkAnswer()),
            range(100),
        )
    require_room(Dataset(path, longest=896), ROLLOUT, Template(tokenizer(), ThinkAnswer()), range(100))
    several = refusal(sums(long=range(12), name="all.jsonl"))
    assert several.what.startswith("12 of 12 first prompts")
    assert "row 4 (line 5)" in several.what
    assert "row 5 (line 6)" not in several.what
    assert several.what.endswith(" and 7 more")


def test_only_the_rows_that_are_used_count(sums):
    path = sums()
    require_room(Dataset(path), ROLLOUT, Template(tokenizer(), ThinkAnswer()), range(10000, 10005))  # rows 4 to 8
    assert "1 of 6 first prompts" in refusal(path, seeds=range(10000, 10006)).what
    assert tasks_of(Dataset(path), range(10000, 10005)) == [4, 5, 6, 7, 8]
    assert tasks_of(Dataset(path), range(10**12)) == range(12)
    assert tasks_of(Counter(), range(5)) is None


def test_where_nobody_knows_which_rows_are_used_the_first_ones_of_all_count(bandit, sums, monkeypatch):
    """Also where a batch sampler goes on for as long as it likes, and where the tasks are in no order."""
    registry().load_file(Path(__file__).with_name("samplers_plugin.py"))
    base = {
        **bandit,
        "environment": {"name": "dataset", "path": sums(), "verifier": "exact"},
        "rollout": {**bandit["rollout"], "max_context": 700, "groups": 1, "group_size": 4},
        "validation": {"every": 0},
        "advantage": "grpo",
    }
    steps = "trainer.steps=4"
    require_rooms(compose(base, [steps, "rollout.seed=0"]))  # rows 0 to 3
    for samplers in (["rollout.batch=hoards"], ["rollout.tasks=rated"], ["trainer.steps=10", "rollout.seed=8"]):
        with pytest.raises(RequestError, match=r"^1 of 1[02] first prompts .* row 9 \(line 10\)"):
            require_rooms(compose(base, [steps, "rollout.seed=0", *samplers]))
    monkeypatch.setattr(prompts, "MEASURED", 9)
    require_rooms(compose(base, [steps, "rollout.tasks=rated"]))
    monkeypatch.setattr(prompts, "MEASURED", 10)
    with pytest.raises(RequestError, match=r"^1 of 10 first prompts"):
        require_rooms(compose(base, [steps, "rollout.tasks=rated"]))


def test_few_characters_can_be_many_tokens(sums):
    path = sums(question="算" * 250)  # 3 bytes each, and the tokenizer of this test knows nothing but bytes
    assert "row 9 (line 10) (" in refusal(path).what
    assert "250 characters" in refusal(path).what


def test_validation_is_measured_too(bandit, sums, tmp_path):
    (tmp_path / "set").mkdir()
    sums(long=(), name="set/train.jsonl")
    sums(long=(2,), name="set/test.jsonl")
    experiment = {
        **bandit,
        "environment": {"name": "dataset", "path": str(tmp_path / "set"), "verifier": "exact"},
        "rollout": {**bandit["rollout"], "max_context": 700},
        "validation": {"groups": 12, "environment": {"split": "test"}},
    }
    with pytest.raises(RequestError, match=r"1 of 12 first prompts .* row 2 \(line 3\)") as caught:
        train(compose(experiment), tmp_path / "run")
    assert caught.value.where == "validation.environment, rollout.max_context: 700"
    assert "validation.environment.longest=896" in caught.value.fix


def test_short_rows_are_not_tokenised(sums, monkeypatch):
    measured = []
    monkeypatch.setattr(room, "Conversation", lambda *given: measured.append(given[-1]) or Conversation(*given))
    require_room(Dataset(sums(long=(), rows=500)), ROLLOUT, Template(tokenizer(), ThinkAnswer()), range(500))
    assert measured == [0]  # that tells how much stands around a question


def test_environments_of_an_author_with_a_number_of_tasks():
    class World(Counter):
        tasks = 3

        def make(self, seed, member=0):
            env = super().make(seed, member)
            env.initial_observation = lambda: "x" * 900 if seed == 2 else "short"
            return env

    with pytest.raises(RequestError, match=r"1 of 3 first prompts .*: task 2 \(\d+ tokens, 900 characters\)") as caught:
        require_room(World(), ROLLOUT, Template(tokenizer(), ThinkAnswer()), range(50))
    assert "longest" not in caught.value.fix
